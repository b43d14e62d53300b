#include "costmodel/strategy.h"

#include <string_view>

namespace llmplan {

std::string_view name_of(Recompute r) {
  switch (r) {
    case Recompute::none: return "none";
    case Recompute::selective: return "selective";
    case Recompute::full: return "full";
  }
  return "?";
}

std::string_view name_of(Schedule s) {
  switch (s) {
    case Schedule::gpipe: return "gpipe";
    case Schedule::one_f_one_b: return "1f1b";
    case Schedule::interleaved: return "interleaved";
    case Schedule::zb_h1: return "zb-h1";
  }
  return "?";
}

std::string_view name_of(AttentionKernel a) {
  switch (a) {
    case AttentionKernel::flash: return "flash";
    case AttentionKernel::unfused: return "unfused";
  }
  return "?";
}

std::string_view name_of(OptimizerKind o) {
  switch (o) {
    case OptimizerKind::adamw: return "adamw";
    case OptimizerKind::lion: return "lion";
    case OptimizerKind::sgd: return "sgd";
    case OptimizerKind::adamw_8bit: return "adamw_8bit";
    case OptimizerKind::adafactor: return "adafactor";
    case OptimizerKind::adamw_lean: return "adamw_lean";
  }
  return "?";
}

std::string describe(const Strategy& s) {
  std::string text;
  auto append = [](std::string& list, char separator, std::string_view item) {
    if (!list.empty()) list += separator;
    list += item;
  };
  auto word = [&](std::string_view w) { append(text, ' ', w); };
  auto count = [&](const char* name, std::int64_t n) {
    if (n != 1) word(name + std::to_string(n));
  };
  count("dp", s.dp);
  count("tp", s.tp);
  count("pp", s.pp);
  count("vpp", s.vpp);
  count("cp", s.cp);
  count("ep", s.ep);
  if (s.etp != 0) word("etp" + std::to_string(s.etp));
  if (s.zero != 0) word("zero" + std::to_string(s.zero));
  const ZeroGroups& z = s.zero_groups;
  if (z.shard != 0) word("shard" + std::to_string(z.shard));
  if (z.secondary != 0) word("hpz" + std::to_string(z.secondary));
  if (z.weight_bits != 0) word("qwz" + std::to_string(z.weight_bits));
  if (z.gradient_bits != 0) word("qgz" + std::to_string(z.gradient_bits));
  if (s.sp) word("sp");
  word("mbs" + std::to_string(s.micro_batch));
  if (s.pp > 1) word(name_of(s.schedule));
  if (s.recompute != Recompute::none) {
    word("recompute " + std::string(name_of(s.recompute)));
    if (s.recompute == Recompute::full && s.recompute_layers > 0)
      word("of " + std::to_string(s.recompute_layers));
  }
  if (s.attention != AttentionKernel::flash) word(std::string(name_of(s.attention)));
  if (!s.layers_per_stage.empty() && s.pp > 1) {
    Strategy even = s;
    even.layers_per_stage.clear();
    std::int64_t layers = 0;
    std::string split;
    for (std::int64_t n : s.layers_per_stage) {
      layers += n;
      append(split, ',', std::to_string(n));
    }
    if (layer_split(even, layers) != s.layers_per_stage) word("layers " + split);
  }
  std::string offload;
  if (s.offload.optimizer) append(offload, ',', "optimizer");
  if (s.offload.gradients) append(offload, ',', "gradients");
  if (s.offload.weights) append(offload, ',', "weights");
  if (s.offload.activations) append(offload, ',', "activations");
  if (!offload.empty()) word("offload " + offload);
  if (s.grad_bucket > 0) word("bucket " + std::to_string(s.grad_bucket));
  return text;
}

std::vector<std::int64_t> layer_split(const Strategy& s, std::int64_t layers) {
  if (!s.layers_per_stage.empty()) return s.layers_per_stage;
  const std::int64_t parts = s.pp * s.vpp;
  std::vector<std::int64_t> split(static_cast<std::size_t>(parts), layers / parts);
  for (std::int64_t i = 0; i < layers % parts; ++i) ++split[static_cast<std::size_t>(i)];
  return split;
}

}  // namespace llmplan
