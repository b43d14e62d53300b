#include "costmodel/profiles/runtime_profile.h"

#include <algorithm>
#include <filesystem>

#include <fmt/format.h>

#include "costmodel/profiles/files.h"
#include "costmodel/profiles/node.h"
#include "costmodel/profiles/profiles.h"
#include "costmodel/profiles/quantity.h"

namespace llmplan {

namespace fs = std::filesystem;

const std::vector<RuntimeField>& runtime_fields() {
  using R = Runtime;
  static const std::vector<RuntimeField> fields = {
      {"name", &R::name},
      {"title", &R::title},
      {"like", &R::like},
      {"lowered", &R::lowered},
      {"fa2", &R::fa2},
      {"attention_rate", &R::attention_rate},
      {"pointwise", &R::pointwise},
      {"score_bytes_forward", &R::score_bytes_forward},
      {"score_bytes_backward", &R::score_bytes_backward},
      {"fp8_cast_bytes", &R::fp8_cast_bytes},
      {"loss_bytes", &R::loss_bytes},
      {"kernels_forward", &R::kernels_forward},
      {"kernels_backward", &R::kernels_backward},
      {"dispatch", &R::dispatch},
      {"collective_dispatch", &R::collective_dispatch},
      {"lockstep", &R::lockstep},
      {"micro_batch_overhead", &R::micro_batch_overhead},
      {"step_overhead", &R::step_overhead},
      {"optimizer_traffic", &R::optimizer_traffic},
      {"tp_overlap", &R::tp_overlap},
      {"cp_overlap", &R::cp_overlap},
      {"ep_overlap", &R::ep_overlap},
      {"pp_overlap", &R::pp_overlap},
      {"dp_overlap", &R::dp_overlap},
      {"gather_overlap", &R::gather_overlap},
      {"gradient_comm_bytes", &R::gradient_comm_bytes},
      {"zero3_gathers_twice", &R::zero3_gathers_twice},
      {"reduce_every_micro_batch", &R::reduce_every_micro_batch},
      {"split_transfers", &R::split_transfers},
      {"cp", &R::cp},
      {"owner_broadcast", &R::owner_broadcast},
      {"rings_only", &R::rings_only},
      {"straggling", &R::straggling},
      {"gradient_bytes", &R::gradient_bytes},
      {"micro_gradient_bytes", &R::micro_gradient_bytes},
      {"step_bytes", &R::step_bytes},
      {"master_weights", &R::master_weights},
      {"fp32_parameters", &R::fp32_parameters},
      {"dropout", &R::dropout},
      {"norm_copies", &R::norm_copies},
      {"activation_copies", &R::activation_copies},
      {"pointwise_saved", &R::pointwise_saved},
      {"scores_kept", &R::scores_kept},
      {"gathered_inputs", &R::gathered_inputs},
      {"logits_bytes", &R::logits_bytes},
      {"logits_cached", &R::logits_cached},
      {"whole_logits", &R::whole_logits},
      {"gradient_placeholders", &R::gradient_placeholders},
      {"zero3_layers", &R::zero3_layers},
      {"bucket", &R::bucket},
      {"reserve", &R::reserve},
      {"fragmentation", &R::fragmentation},
      {"selective", &R::selective},
      {"vocab_multiple", &R::vocab_multiple},
  };
  return fields;
}

namespace {

std::string runtime_path(const std::string& name) {
  return (fs::path(data_directory()) / "runtimes" / (name + ".yaml")).string();
}

// `words` in the order of the enum's values.
template <class Enum>
Enum read_word(const Node& n, const std::string& what, const std::vector<std::string>& words) {
  const std::string word = read_text(n, what);
  for (std::size_t i = 0; i < words.size(); ++i)
    if (words[i] == word) return static_cast<Enum>(i);
  fail(n, "E0112", fmt::format("'{}' is not a value of {}", word, what),
       did_you_mean(word, words, fmt::format("valid: {}", fmt::join(words, ", "))));
}
const std::vector<std::string> selective_words = {"attention", "matmuls"};
const std::vector<std::string> cp_words = {"ring", "all_gather", "all_to_all"};

struct Read {
  const Node& n;
  const std::string what;
  void into(std::string& to) const { to = read_text(n, what); }
  void into(bool& to) const { to = read_bool(n, what); }
  void into(std::int64_t& to) const { to = read_integer(n, what, 1, 1 << 20); }
  void into(Seconds& to) const { to = {read_quantity(n, what, time_units)}; }
  void into(Bytes& to) const { to = read_bytes(n, what); }
  void into(double& to) const {
    to = read_number(n, what);
    if (to < 0) fail(n, "E0109", fmt::format("{} is negative", what), "give a number that is not");
    if (what == "attention_rate" && to == 0) fail(n, "E0109", "attention_rate is 0", "give a speed above 0");
    if (what.ends_with("overlap") && to > 1)
      fail(n, "E0109", fmt::format("{} is {}", what, to), "an overlap is the share that can be hidden, from 0 to 1");
  }
  void into(Selective& to) const { to = read_word<Selective>(n, what, selective_words); }
  void into(ContextParallel& to) const { to = read_word<ContextParallel>(n, what, cp_words); }
};

Runtime read_node(const Node& root, int depth) {
  require(root, Node::Kind::map, "a runtime");
  std::vector<std::string> keys = {"source", "base"};
  for (const RuntimeField& f : runtime_fields()) keys.push_back(f.key);
  only_keys(root, keys, "a runtime");
  Runtime r;
  if (const Node* base = root.find("base")) {
    const std::string name = read_text(*base, "base");
    if (depth > 4) fail(*base, "E0109", "runtimes that build on each other never end", "let one of them state all its constants");
    const std::vector<std::string> names = runtime_names();
    if (std::find(names.begin(), names.end(), name) == names.end())
      fail(*base, "E0201", fmt::format("unknown runtime '{}'", name), did_you_mean(name, names, fmt::format("valid: {}", fmt::join(names, ", "))));
    const std::string file = runtime_path(name);
    r = read_node(parse_yaml(read_profile_file(file), file), depth + 1);
    r.lowered = false;
    r.base = r.like = name;
  }
  if (!root.find("source") || read_text(*root.find("source"), "source").empty())
    fail(root, "E0114", "a runtime's constants have no source", "add a line `source: where they come from`");
  for (const RuntimeField& f : runtime_fields()) {
    const Node* value = root.find(f.key);
    if (!value || value->kind == Node::Kind::null) continue;
    std::visit([&](auto member) { Read{*value, f.key}.into(r.*member); }, f.member);
  }
  return r;
}

struct Write {
  std::string& out;
  const char* key;
  void operator()(const std::string& v) const { out += fmt::format("{}: \"{}\"\n", key, v); }
  void operator()(bool v) const { out += fmt::format("{}: {}\n", key, v ? "true" : "false"); }
  void operator()(double v) const { out += fmt::format("{}: {}\n", key, v); }
  void operator()(std::int64_t v) const { out += fmt::format("{}: {}\n", key, v); }
  void operator()(Seconds v) const { out += fmt::format("{}: {} s\n", key, v.value); }
  void operator()(Bytes v) const { out += fmt::format("{}: {} B\n", key, v.value); }
  void operator()(Selective v) const { out += fmt::format("{}: {}\n", key, selective_words[static_cast<std::size_t>(v)]); }
  void operator()(ContextParallel v) const { out += fmt::format("{}: {}\n", key, cp_words[static_cast<std::size_t>(v)]); }
};

}  // namespace

std::vector<std::string> runtime_names() { return yaml_names("runtimes"); }

Runtime parse_runtime(const std::string& yaml, const std::string& file) {
  return read_node(parse_yaml(yaml, file), 0);
}

Runtime read_runtime(const std::string& name_or_path) {
  std::string file = name_or_path;
  if (!looks_like_path(name_or_path)) {
    const std::vector<std::string> names = runtime_names();
    if (std::find(names.begin(), names.end(), name_or_path) == names.end())
      throw Error("E0201", Exit::usage, fmt::format("unknown runtime '{}'", name_or_path),
                  did_you_mean(name_or_path, names, fmt::format("valid: {}", fmt::join(names, ", "))));
    file = runtime_path(name_or_path);
  }
  Runtime r = parse_runtime(read_profile_file(file), file);
  if (!looks_like_path(name_or_path)) r.name = name_or_path;
  return r;
}

std::string to_yaml(const Runtime& r) {
  std::string out;
  for (const RuntimeField& f : runtime_fields())
    std::visit([&](auto member) { Write{out, f.key}(r.*member); }, f.member);
  return out;
}

}  // namespace llmplan
