// llmplan help [COMMAND | E0312]: a command's options, or what an error means.
#include <iostream>

#include <fmt/format.h>

#include "costmodel/profiles/profiles.h"
#include "tools/llmplan/commands.h"
#include "tools/llmplan/documents.h"
#include "tools/llmplan/errors_page.h"
#include "tools/llmplan/overview.h"

namespace llmplan::cli {
namespace {

// The section "## E0312 …" of docs/errors.md, which is built into the program.
std::string section(const std::string& code) {
  const std::string page = errors_page();
  const std::size_t begin = page.find("\n## " + code);
  if (begin == std::string::npos) return "";
  const std::size_t end = page.find("\n## ", begin + 1);
  return page.substr(begin + 4, end == std::string::npos ? end : end - begin - 4);
}

std::vector<std::string> codes() {
  std::vector<std::string> list;
  const std::string page = errors_page();
  for (std::size_t at = page.find("\n## E"); at != std::string::npos; at = page.find("\n## E", at + 1))
    list.push_back(page.substr(at + 4, 5));
  return list;
}

Exit explain_error(std::string code, bool json) {
  code[0] = 'E';
  const std::string text = section(code);
  if (text.empty()) {
    std::string all;
    for (const std::string& c : codes()) all += " " + c;
    throw Error("E0123", Exit::usage, "there is no error " + code, "these exist:" + all);
  }
  if (json) print_document({{"schema", "llmplan.help/1"}, {"topic", code}, {"text", text}});
  else std::cout << text << '\n';
  return Exit::ok;
}

Exit help(CLI::App& app, const std::string& topic, bool json) {
  const bool code = topic.size() == 5 && (topic[0] == 'E' || topic[0] == 'e') &&
                    topic.find_first_not_of("0123456789", 1) == std::string::npos;
  if (code) return explain_error(topic, json);
  std::string text = overview();
  if (!topic.empty()) {
    std::vector<std::string> names;
    const CLI::App* found = nullptr;
    for (const CLI::App* sub : app.get_subcommands([](CLI::App*) { return true; })) {
      names.push_back(sub->get_name());
      if (sub->get_name() == topic) found = sub;
    }
    if (found == nullptr) {
      const auto close = nearest(topic, names, 1);
      throw Error("E0123", Exit::usage, fmt::format("no help for '{}'", topic),
                  (close.empty() ? "" : "did you mean " + close[0] + "?  ") +
                      std::string("topics are the commands of `llmplan help` and error codes such as E0312"));
    }
    text = found->help("llmplan");
  }
  if (json) print_document({{"schema", "llmplan.help/1"}, {"topic", topic}, {"text", text}});
  else std::cout << text;
  return Exit::ok;
}

}  // namespace

void add_help(CLI::App& app, Session& session) {
  CLI::App* sub = app.add_subcommand("help", "a command's options, or what an error code means");
  auto topic = std::make_shared<std::string>();
  sub->add_option("TOPIC", *topic, "a command, or an error code such as E0312");
  sub->callback([topic, &app, &session] {
    session.action = [topic, &app, &session] { return help(app, *topic, session.json); };
  });
}

}  // namespace llmplan::cli
