// llmplan report DIR: predicted beside measured, again, for a finished run.
#include <filesystem>
#include <iostream>

#include <fmt/format.h>

#include "executor/file.h"
#include "executor/trainer.h"
#include "tools/llmplan/commands.h"
#include "tools/llmplan/run_report.h"

namespace llmplan::cli {
namespace {

Exit report(const std::string& directory, bool json) {
  namespace fs = std::filesystem;
  std::error_code ignored;
  const std::string file = (fs::path(directory) / "report.json").string();
  if (!fs::is_directory(directory, ignored))
    throw Error("E0407", Exit::data, fmt::format("there is no run directory '{}'", directory),
                "give the --out directory of a run (default: runs/latest)");
  if (!fs::exists(file, ignored))
    throw Error("E0407", Exit::data, fmt::format("{} has no report.json", directory),
                fs::exists(fs::path(directory) / "metrics.jsonl", ignored)
                    ? "the run did not end; continue it with --resume"
                    : "give the --out directory of a finished run");
  const RunReport report = report_from_json(read_file(file), file);
  std::cout << (json ? to_json(report) + '\n' : report_text(report, directory));
  return Exit::ok;
}

}  // namespace

void add_report(CLI::App& app, Session& session) {
  CLI::App* sub = app.add_subcommand("report", "predicted beside measured, for a finished run");
  auto directory = std::make_shared<std::string>("runs/latest");
  sub->add_option("DIR", *directory, "the --out directory of the run (default: runs/latest)");
  sub->callback([directory, &session] {
    session.action = [directory, &session] { return report(*directory, session.json); };
  });
}

}  // namespace llmplan::cli
