#include <algorithm>
#include <filesystem>

#include <fmt/format.h>

#include "costmodel/profiles/files.h"
#include "costmodel/profiles/model_fields.h"
#include "costmodel/profiles/profiles.h"
#include "costmodel/profiles/quantity.h"

namespace llmplan {

namespace fs = std::filesystem;

std::vector<std::string> model_names() { return yaml_names("models"); }

ModelConfig parse_model(const std::string& yaml, const std::string& file) {
  return read_model_config(parse_yaml(yaml, file), true, fs::path(file).stem().string());
}

namespace {

ModelConfig read_hugging_face(const fs::path& config) {
  const Node root = parse_json(read_profile_file(config.string()), config.string());
  const fs::path folder = config.parent_path();
  std::string name = folder.filename().string();
  if (name.empty() || name == ".") name = config.stem().string();
  return read_model_config(root, false, name);
}

}  // namespace

ModelConfig read_model(const std::string& name) {
  std::error_code ignored;
  const std::vector<std::string> names = model_names();
  if (std::find(names.begin(), names.end(), name) != names.end()) {
    const std::string file = (fs::path(data_directory()) / "models" / (name + ".yaml")).string();
    return parse_model(read_profile_file(file), file);
  }
  if (fs::is_directory(name, ignored)) {
    const fs::path config = fs::path(name) / "config.json";
    if (fs::exists(config, ignored)) return read_hugging_face(config);
    throw Error("E0201", Exit::usage, fmt::format("the directory '{}' has no config.json", name),
                "give a Hugging Face model directory, a YAML file, or a name from `llmplan models`");
  }
  if (looks_like_path(name) || fs::exists(name, ignored)) {
    if (name.ends_with(".json")) return read_hugging_face(name);
    return parse_model(read_profile_file(name), name);
  }
  const std::string more = fmt::format("{} built-in names: llmplan models · or give a YAML file or a directory with config.json", names.size());
  const std::string guess = did_you_mean(name, names, "");
  throw Error("E0201", Exit::usage, fmt::format("unknown model '{}'", name.substr(0, 80)), guess.empty() ? more : guess + " · " + more);
}

}  // namespace llmplan
