// The keys of a model file and the members of ModelConfig that they fill: one list for YAML
// profiles and for Hugging Face's config.json.
#pragma once

#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "costmodel/model.h"
#include "costmodel/profiles/node.h"

namespace llmplan {

struct ModelField {
  using Member = std::variant<std::int64_t ModelConfig::*, int ModelConfig::*,
                              double ModelConfig::*, bool ModelConfig::*, Mlp ModelConfig::*,
                              Norm ModelConfig::*, Positions ModelConfig::*>;
  std::vector<std::string> keys;  // the name of the member, then what other classes call it
  Member member;
};
const std::vector<ModelField>& model_fields();

// One model_type: transformers' defaults for the keys that a config leaves out, and what the keys
// mean beyond filling a member.
struct ModelFamily {
  std::string_view model_type;
  std::vector<std::string> architectures;  // class names that stand for it
  std::string_view defaults;               // `key: value, …`, by the names in model_fields()
  std::vector<std::string> extra_keys;     // that `finish` reads or that do not matter here
  void (*finish)(const Node& config, ModelConfig&);  // runs after the fields are read
};
const std::vector<ModelFamily>& model_families();
const ModelFamily* find_family(const std::string& model_type);

// `strict`: every key must be known (our own YAML); else others are left alone (config.json).
ModelConfig read_model_config(const Node& root, bool strict, const std::string& name);

}  // namespace llmplan
