#include <algorithm>
#include <filesystem>
#include <optional>

#include <fmt/format.h>

#include "costmodel/model_names.h"
#include "costmodel/profiles/checkpoint_shapes.h"
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

struct HuggingFace {
  Node config;
  std::string name;
  std::optional<CheckpointShapes> checkpoint;
};

HuggingFace open_hugging_face(const fs::path& config) {
  const fs::path folder = fs::absolute(config).parent_path();
  HuggingFace out{parse_json(read_profile_file(config.string()), config.string()),
                  folder.filename().string(),
                  {}};
  int bytes_each = 2;
  for (const char* key : {"torch_dtype", "dtype"})
    if (const Node* n = out.config.find(key))
      bytes_each = n->text == "float32" ? 4 : n->text.starts_with("float8") ? 1 : 2;
  out.checkpoint = read_checkpoint_shapes(folder.string(), bytes_each);
  return out;
}

bool says_tied(const Node& config) {
  const Node* text = config.find("text_config");
  return config.find("tie_word_embeddings") || (text && text->find("tie_word_embeddings"));
}

ModelConfig read_hugging_face(const fs::path& path) {
  const HuggingFace hf = open_hugging_face(path);
  try {
    ModelConfig m = read_model_config(hf.config, false, hf.name);
    // Where the config is silent, the files know best: classes disagree about the default.
    if (hf.checkpoint && !says_tied(hf.config)) {
      const std::string head = std::string(tensor_names(m.model_type).head) + ".weight";
      m.tie_word_embeddings =
          !std::binary_search(hf.checkpoint->names.begin(), hf.checkpoint->names.end(), head);
    }
    return m;
  } catch (Error& e) {
    if (e.code == "E0203" && hf.checkpoint && hf.checkpoint->parameters > 0) {
      e.hint = fmt::format(
          "parameters were counted from {} instead: {:.1f} B ({}); memory of weights, gradients "
          "and optimizer follows "
          "from that, activations are not available",
          hf.checkpoint->from, static_cast<double>(hf.checkpoint->parameters) * 1e-9,
          hf.checkpoint->parameters);
    }
    throw;
  }
}

fs::path config_of(const std::string& path) {
  std::error_code ignored;
  return fs::is_directory(path, ignored) ? fs::path(path) / "config.json" : fs::path(path);
}

}  // namespace

std::int64_t checkpoint_parameters(const std::string& path) {
  const HuggingFace hf = open_hugging_face(config_of(path));
  return hf.checkpoint ? hf.checkpoint->parameters : 0;
}

std::vector<std::string> checkpoint_differences(const std::string& path) {
  std::error_code ignored;
  const fs::path config = config_of(path);
  if (config.extension() != ".json" || !fs::exists(config, ignored)) return {};
  const HuggingFace hf = open_hugging_face(config);
  return hf.checkpoint ? differences(read_hugging_face(config), *hf.checkpoint)
                       : std::vector<std::string>{};
}

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
    throw Error(
        "E0201", Exit::usage, fmt::format("the directory '{}' has no config.json", name),
        "give a Hugging Face model directory, a YAML file, or a name from `llmplan models`");
  }
  if (looks_like_path(name) || fs::exists(name, ignored)) {
    if (name.ends_with(".json")) return read_hugging_face(name);
    return parse_model(read_profile_file(name), name);
  }
  const std::string more = fmt::format(
      "{} built-in names: llmplan models · or give a YAML file or a directory with config.json",
      names.size());
  const std::string guess = did_you_mean(name, names, "");
  throw Error("E0201", Exit::usage, fmt::format("unknown model '{}'", name.substr(0, 80)),
              guess.empty() ? more : guess + " · " + more);
}

}  // namespace llmplan
