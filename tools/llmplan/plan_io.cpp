#include "tools/llmplan/plan_io.h"

#include <filesystem>
#include <fstream>

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

void write_plan(const std::string& path, const Plan& plan) { write_output(path, to_json(plan)); }

void write_output(const std::string& path, const std::string& text) {
  namespace fs = std::filesystem;
  std::error_code ignored;
  const bool replaceable = !fs::exists(path, ignored) || fs::is_regular_file(path, ignored) || fs::is_directory(path, ignored);
  if (replaceable) {  // through a symbolic link, so that the link stays
    const fs::path target = fs::is_symlink(path, ignored) ? fs::weakly_canonical(path, ignored) : fs::path(path);
    return write_file(target.string(), text);
  }
  std::ofstream out(path, std::ios::binary);
  out << text;
  if (!out.flush())
    throw Error("E0503", Exit::environment, fmt::format("cannot write {}", path), "give -o the name of a file");
}

std::string plan_line(const Plan& p) {
  return fmt::format("{} · {} · seq {} · {} sequences/step · {}", p.model.name, describe(p.strategy),
                     p.workload.seq, p.workload.global_batch, p.cluster.name);
}

}  // namespace llmplan::cli
