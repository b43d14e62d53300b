#include "tools/llmplan/plan_io.h"

#include <filesystem>

#include <fmt/format.h>

#include "costmodel/error.h"
#include "executor/file.h"
#include "planner/plan_file.h"

namespace llmplan::cli {

Plan read_plan(const std::string& path) {
  namespace fs = std::filesystem;
  std::error_code ignored;
  const char* hint = "llmplan tune MODEL -o plan.json writes one";
  if (!fs::exists(path, ignored))
    throw Error("E0330", Exit::usage, fmt::format("there is no plan '{}'", path), hint);
  if (fs::is_directory(path, ignored))
    throw Error("E0330", Exit::usage, fmt::format("'{}' is a directory, not a plan", path),
                fs::exists(fs::path(path) / "plan.json", ignored)
                    ? fmt::format("did you mean {}?", (fs::path(path) / "plan.json").string())
                    : hint);
  return plan_from_json(read_file(path), path);
}

void write_plan(const std::string& path, const Plan& plan) { write_file(path, to_json(plan)); }

std::string plan_line(const Plan& p) {
  return fmt::format("{} · {} · seq {} · {} sequences/step · {}", p.model.name, describe(p.strategy),
                     p.workload.seq, p.workload.global_batch, p.cluster.name);
}

}  // namespace llmplan::cli
