// llmplan: plan, simulate and run LLM training. This file is the list of subcommands, and the one place
// where errors end.
#include <csignal>
#include <iostream>

#include "tools/llmplan/commands.h"
#include "tools/llmplan/error_output.h"
#include "tools/llmplan/local_gpus.h"
#include "tools/llmplan/overview.h"
#include "tools/llmplan/parse_errors.h"
#include "tools/llmplan/terminal.h"

namespace llmplan::cli {
namespace {

constexpr auto kCommands = {add_estimate, add_tune,    add_simulate, add_run,        add_report, add_calibrate, add_validate,
                            add_explain,  add_why_not, add_models,   add_hardware,   add_env,    add_data,
                            add_checkpoint, add_export, add_demo,    add_help};

void print(const Error& e, const Session& session) {
  std::cerr << render(e, has_color(Output::err));
  if (session.json) std::cout << error_json(e) << '\n';
}

Exit run(const std::vector<std::string>& arguments) {
  find_local_gpus_with(local_gpus);
  Session session;
  session.dispatch = run;
  bool version = false;
  CLI::App app("Plan, simulate and run LLM training", "llmplan");
  app.require_subcommand(0, 1);
  app.fallthrough();
  app.add_flag("--json", session.json, "one JSON document on stdout, nothing else there");
  app.add_flag("--version", version, "print the version (with --json: and what is built in)");
  for (auto add : kCommands) add(app, session);
  for (CLI::App* sub : app.get_subcommands([](CLI::App*) { return true; })) sub->fallthrough();

  try {
    std::vector<std::string> reversed(arguments.rbegin(), arguments.rend());  // as CLI11 wants it
    try {
      app.parse(reversed);
    } catch (const CLI::CallForHelp&) {
      std::cout << (app.get_subcommands().empty() ? overview() : app.help());
      return Exit::ok;
    } catch (const CLI::ParseError& e) {
      for (const std::string& word : arguments) session.json = session.json || word == "--json";
      throw to_error(e, app);
    }
    if (version) {
      std::cout << (session.json ? version_json() : version_line()) << '\n';
      return Exit::ok;
    }
    if (!session.action) {
      std::cout << overview();
      return Exit::ok;
    }
    const Exit exit = session.action();
    std::cout.flush();
    if (!std::cout)
      throw Error("E0504", Exit::environment, "cannot write to standard output",
                  "is the disk full, or the pipe closed?");
    return exit;
  } catch (const Error& e) {
    print(e, session);
    return e.exit;
  } catch (const std::exception& e) {
    print(bug(e.what()), session);
    return Exit::bug;
  }
}

}  // namespace
}  // namespace llmplan::cli

int main(int argc, char** argv) {
  std::signal(SIGXFSZ, SIG_IGN);  // a file size limit then is an error of write(), told like a full disk
  return static_cast<int>(llmplan::cli::run({argv + 1, argv + argc}));
}
