// llmplan checkpoint DIR: the checkpoints of a run, each verified against its checksum.
#include <algorithm>
#include <filesystem>
#include <iostream>

#include <fmt/format.h>

#include "executor/safetensors.h"
#include "tools/llmplan/commands.h"
#include "tools/llmplan/documents.h"
#include "tools/llmplan/format.h"
#include "tools/llmplan/table.h"

namespace llmplan::cli {
namespace {

namespace fs = std::filesystem;

// DIR is a run, its checkpoints folder, or a file.
std::vector<std::string> files_of(const std::string& path) {
  std::error_code ignored;
  if (fs::is_regular_file(path, ignored)) return {path};
  if (!fs::is_directory(path, ignored))
    throw Error("E0407", Exit::data, fmt::format("there is no run directory '{}'", path),
                "give the --out directory of a run (default: runs/latest), or a .safetensors file");
  std::vector<std::string> files;
  for (const fs::path& folder : {fs::path(path), fs::path(path) / "checkpoints", fs::path(path) / "hf"})
    for (const auto& entry : fs::directory_iterator(folder, ignored))
      if (entry.path().extension() == ".safetensors") files.push_back(entry.path().string());
  std::sort(files.begin(), files.end());
  if (files.empty())
    throw Error("E0407", Exit::data, fmt::format("{} holds no checkpoint", path),
                "a run writes one at its end, when it is stopped, and with --checkpoint-every N");
  return files;
}

struct Checked {
  std::string file, step, checksum;  // checksum: "ok", "damaged", "none stored"
  std::int64_t tensors = 0, elements = 0;
};

Checked check_file(const std::string& file) {
  const SafeTensors tensors(file);
  Checked c{.file = file, .step = "-", .checksum = "none stored", .tensors = static_cast<std::int64_t>(tensors.tensors().size())};
  for (const SafeTensor& t : tensors.tensors()) c.elements += t.elements();
  const auto step = tensors.metadata().find("step");
  if (step != tensors.metadata().end()) c.step = step->second;
  const auto stored = tensors.metadata().find("checksum");
  if (stored != tensors.metadata().end()) c.checksum = stored->second == hex(tensors.checksum()) ? "ok" : "damaged";
  return c;
}

Exit inspect(const std::string& path, bool json) {
  std::vector<std::vector<std::string>> rows;
  Json documents = Json::array();
  bool sound = true;
  for (const std::string& file : files_of(path)) {
    const Checked c = check_file(file);
    sound = sound && c.checksum != "damaged";
    rows.push_back({c.file, c.step, grouped(c.tensors), grouped(c.elements), c.checksum});
    documents.push_back({{"file", c.file}, {"step", c.step}, {"tensors", c.tensors}, {"elements", c.elements}, {"checksum", c.checksum}});
  }
  if (json) print_document({{"schema", "llmplan.checkpoint/1"}, {"sound", sound}, {"files", documents}});
  else std::cout << table({{"file", Align::left}, {"step"}, {"tensors"}, {"numbers"}, {"checksum", Align::left}}, rows);
  if (!sound && !json)
    std::cout << " a damaged checkpoint cannot be resumed from: remove it, and --resume takes the one before it\n";
  return sound ? Exit::ok : Exit::data;
}

}  // namespace

void add_checkpoint(CLI::App& app, Session& session) {
  CLI::App* sub = app.add_subcommand("checkpoint", "a run's checkpoints, verified");
  auto path = std::make_shared<std::string>("runs/latest");
  sub->add_option("DIR", *path, "the --out directory of a run (default: runs/latest), or a file");
  sub->callback([path, &session] {
    session.action = [path, &session] { return inspect(*path, session.json); };
  });
}

}  // namespace llmplan::cli
