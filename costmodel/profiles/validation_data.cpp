// What validation needs from files beside the cases.
#include <memory>

#include <fmt/format.h>

#include "costmodel/profiles/case_file.h"
#include "costmodel/profiles/files.h"
#include "costmodel/profiles/node.h"
#include "costmodel/profiles/profile_fields.h"
#include "costmodel/profiles/profiles.h"
#include "costmodel/profiles/quantity.h"
#include "costmodel/profiles/runtime_profile.h"

namespace llmplan {
namespace {

FlopsConvention read_convention(const Node& n) {
  const std::pair<const char*, FlopsConvention> names[] = {
      {"model_full", FlopsConvention::model_full},
      {"model_causal", FlopsConvention::model_causal},
      {"hardware_recompute", FlopsConvention::hardware_recompute},
      {"six_n", FlopsConvention::six_n},
      {"six_n_no_embedding", FlopsConvention::six_n_no_embedding}};
  for (const auto& [name, value] : names)
    if (n.text == name) return value;
  fail(n, "E0107", fmt::format("unknown convention '{}'", n.text), "costmodel/validate.h lists them");
}

BlankCells read_one(const Node& map, const std::string& runtime) {
  only_keys(map, {"vocab", "mlp", "precision", "zero", "sp", "recompute", "attention", "micro_batch", "accumulation",
                  "interleaved_vpp", "flops", "notes", "source"},
            "the blank cells of " + runtime);
  BlankCells b;
  const auto integer = [&](const char* key, std::optional<std::int64_t>& to) {
    if (const Node* n = map.find(key)) to = read_integer(*n, key, 0, std::int64_t{1} << 40);
  };
  const auto text = [&](const char* key, std::string& to) {
    if (const Node* n = map.find(key)) to = read_text(*n, key);
  };
  integer("vocab", b.vocab), integer("zero", b.zero), integer("sp", b.sp);
  if (const Node* n = map.find("interleaved_vpp")) b.interleaved_vpp = read_integer(*n, "interleaved_vpp", 1, 1024);
  text("mlp", b.mlp), text("precision", b.precision), text("recompute", b.recompute), text("attention", b.attention);
  if (const Node* n = map.find("micro_batch")) {
    b.tuned_micro_batch = n->text == "tuned", b.micro_batch_per_stage = n->text == "per_stage";
    if (!b.tuned_micro_batch && !b.micro_batch_per_stage)
      fail(*n, "E0107", "micro_batch has no such default", "write: micro_batch: tuned, or micro_batch: per_stage");
  }
  if (const Node* n = map.find("accumulation")) b.no_accumulation = read_integer(*n, "accumulation", 1, 1) == 1;
  if (const Node* n = map.find("notes")) {
    require(*n, Node::Kind::map, "notes");
    for (const auto& [start, profile] : n->entries) b.variants.emplace_back(start.text, read_text(profile, start.text));
  }
  b.flops = read_convention(required(map, "flops", runtime));
  return b;
}

}  // namespace

std::map<std::string, BlankCells> read_blank_cells() {
  const std::string file = data_directory() + "/costmodel/validation/blank_cells.yaml";
  const Node root = parse_yaml(read_profile_file(file), file);
  require(root, Node::Kind::map, "the file");
  std::map<std::string, BlankCells> runtimes;
  for (const auto& [key, value] : root.entries) {
    require(value, Node::Kind::map, key.text);
    runtimes[key.text] = read_one(value, key.text);
  }
  return runtimes;
}

// profile: [other names…] as other name → profile.
static std::map<std::string, std::string> read_aliases(const Node& map) {
  std::map<std::string, std::string> aliases;
  require(map, Node::Kind::map, "aliases");
  for (const auto& [profile, names] : map.entries) {
    require(names, Node::Kind::list, profile.text);
    for (const Node& name : names.items)
      if (!aliases.emplace(read_text(name, "an alias"), profile.text).second) fail(name, "E0107", "'" + name.text + "' stands for two profiles", "keep one");
  }
  return aliases;
}

static std::vector<FabricWord> read_fabrics() {
  const std::string file = data_directory() + "/costmodel/validation/fabrics.yaml";
  const Node root = parse_yaml(read_profile_file(file), file);
  require(root, Node::Kind::list, "the file");
  std::vector<FabricWord> words;
  for (const Node& item : root.items) {
    only_keys(item, {"link", "device", "generic", "words"}, "a network");
    FabricWord word;
    word.link = read_link(required(item, "link", "a network"), 1, true);
    if (const Node* n = item.find("device")) word.device = read_text(*n, "device");
    if (const Node* n = item.find("generic")) word.generic = read_bool(*n, "generic");
    const Node& list = required(item, "words", "a network");
    require(list, Node::Kind::list, "words");
    for (const Node& n : list.items) {
      word.word = read_text(n, "a word");
      words.push_back(word);
    }
  }
  return words;
}

ValidationData validation_data() {
  ValidationData data;
  data.fabrics = read_fabrics();
  data.blank_cells = read_blank_cells();
  const std::string aliases_file = data_directory() + "/costmodel/validation/aliases.yaml";
  const Node aliases = parse_yaml(read_profile_file(aliases_file), aliases_file);
  only_keys(aliases, {"devices", "runtimes"}, "the aliases");
  data.device_aliases = read_aliases(required(aliases, "devices", "the aliases"));
  data.runtime_aliases = read_aliases(required(aliases, "runtimes", "the aliases"));
  for (const std::string& name : model_names()) data.models.push_back(read_model(name));
  for (const std::string& name : yaml_names("costmodel/validation/models"))  // shapes that only case files need
    data.models.push_back(read_model(data_directory() + "/costmodel/validation/models/" + name + ".yaml"));
  // Thousands of rows share a few devices.
  auto cache = std::make_shared<std::map<std::string, Cluster>>();
  data.cluster = [cache](const std::string& device, std::int64_t nodes, std::int64_t per_node) {
    const std::string name = fmt::format("{}x{}x{}", nodes, per_node, device);
    const auto found = cache->find(name);
    return found != cache->end() ? found->second : cache->emplace(name, read_cluster(name)).first->second;
  };
  auto runtimes = std::make_shared<std::map<std::string, Runtime>>();
  data.runtime = [runtimes](const std::string& name) {
    if (name.empty()) throw Error("E0130", Exit::usage, "'runtime' is blank", "name the software that ran it");
    const auto found = runtimes->find(name);
    return found != runtimes->end() ? found->second : runtimes->emplace(name, read_runtime(name)).first->second;
  };
  return data;
}

}  // namespace llmplan
