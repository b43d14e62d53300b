#include "tools/llmplan/strategy_fields.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "costmodel/error.h"
#include "costmodel/profiles/profiles.h"

namespace llmplan::cli {
namespace {

using Json = nlohmann::ordered_json;
constexpr std::int64_t kMost = 1'000'000;  // of any degree: beyond it is a typing error

[[noreturn]] void refuse(const std::string& flag, const std::string& text, const std::string& hint) {
  throw Error("E0121", Exit::usage, fmt::format("{}: '{}' is not a valid value", flag, text), hint);
}

std::string dashed(std::string s) {
  std::replace(s.begin(), s.end(), '_', '-');
  return s;
}

template <class E>
E read_name(const std::string& flag, const std::string& text, std::initializer_list<E> all) {
  std::vector<std::string> names;
  for (E e : all) {
    names.push_back(dashed(std::string(name_of(e))));
    if (names.back() == dashed(text)) return e;
  }
  const auto close = nearest(text, names, 1);
  refuse(flag, text, fmt::format("one of: {}{}", fmt::join(names, " "),
                                 close.empty() ? "" : fmt::format("   (did you mean {}?)", close[0])));
}

template <auto Member>
void set_degree(Strategy& s, const std::string& flag, const std::string& text) {
  s.*Member = read_integer(flag, text, 1, kMost);
}
template <auto Member>
Json get(const Strategy& s) { return s.*Member; }
template <auto Member>
Json get_name(const Strategy& s) { return std::string(name_of(s.*Member)); }

template <auto Member>
void set_from_zero(Strategy& s, const std::string& flag, const std::string& text) {
  s.*Member = read_integer(flag, text, 0, kMost);
}
template <auto Member>
void set_zero_group(Strategy& s, const std::string& flag, const std::string& text) {
  auto& to = s.zero_groups.*Member;
  to = static_cast<std::decay_t<decltype(to)>>(read_integer(flag, text, 0, kMost));
}
template <auto Member>
Json get_zero_group(const Strategy& s) { return s.zero_groups.*Member; }

void set_zero(Strategy& s, const std::string& flag, const std::string& text) {
  s.zero = static_cast<int>(read_integer(flag, text, 0, 3));
}

void set_sp(Strategy& s, const std::string& flag, const std::string& text) { s.sp = read_switch(flag, text); }

void set_recompute(Strategy& s, const std::string& flag, const std::string& text) {
  s.recompute_layers = 0;
  if (!text.empty() && text[0] >= '0' && text[0] <= '9') {
    s.recompute = Recompute::full;
    s.recompute_layers = read_integer(flag, text, 1, kMost);
    return;
  }
  s.recompute = read_name(flag, text, {Recompute::none, Recompute::selective, Recompute::full});
}

void set_layers(Strategy& s, const std::string& flag, const std::string& text) {
  s.layers_per_stage.clear();
  for (const std::string& n : split(text)) s.layers_per_stage.push_back(read_integer(flag, n, 1, kMost));
}

struct OffloadPart { const char* name; bool Offload::*member; };
constexpr OffloadPart kOffload[] = {{"optimizer", &Offload::optimizer},
                                    {"gradients", &Offload::gradients},
                                    {"weights", &Offload::weights},
                                    {"activations", &Offload::activations}};

void set_offload(Strategy& s, const std::string& flag, const std::string& text) {
  s.offload = {};
  if (text == "none") return;
  for (const std::string& word : split(text)) {
    const auto part = std::find_if(std::begin(kOffload), std::end(kOffload),
                                   [&](const OffloadPart& p) { return word == p.name; });
    if (part == std::end(kOffload))
      refuse(flag, word, "any of optimizer,gradients,weights,activations, or none");
    s.offload.*(part->member) = true;
  }
}

Json offload_names(const Strategy& s) {
  Json names = Json::array();
  for (const OffloadPart& p : kOffload)
    if (s.offload.*(p.member)) names.push_back(p.name);
  return names;
}

const std::vector<StrategyField>& fields() {
  static const std::vector<StrategyField> list = {
      {"tp", "N", "tensor parallel: splits each layer's matrices", set_degree<&Strategy::tp>, get<&Strategy::tp>},
      {"pp", "N", "pipeline parallel: stages of consecutive layers", set_degree<&Strategy::pp>, get<&Strategy::pp>},
      {"vpp", "N", "virtual stages per device (interleaved schedule)", set_degree<&Strategy::vpp>, get<&Strategy::vpp>},
      {"cp", "N", "context parallel: splits each sequence", set_degree<&Strategy::cp>, get<&Strategy::cp>},
      {"ep", "N", "expert parallel (mixture of experts)", set_degree<&Strategy::ep>, get<&Strategy::ep>},
      {"etp", "N", "tensor parallel of experts; 0: as tp", set_from_zero<&Strategy::etp>, get<&Strategy::etp>},
      {"dp", "N", "data parallel; derived from the cluster if left out", set_degree<&Strategy::dp>, get<&Strategy::dp>},
      {"zero", "0..3", "what data-parallel ranks share out: 1 optimizer, 2 and gradients, 3 and weights", set_zero, get<&Strategy::zero>},
      {"zero_shard", "N", "ZeRO in groups of N data-parallel ranks, copies between groups (HSDP); 0: one group", set_zero_group<&ZeroGroups::shard>, get_zero_group<&ZeroGroups::shard>},
      {"zero_secondary", "N", "ZeRO-3: N ranks share a second copy of the weights for backward (ZeRO++ hpZ)", set_zero_group<&ZeroGroups::secondary>, get_zero_group<&ZeroGroups::secondary>},
      {"zero_weight_bits", "0|4|8", "ZeRO-3: weights quantised on the wire (ZeRO++ qwZ)", set_zero_group<&ZeroGroups::weight_bits>, get_zero_group<&ZeroGroups::weight_bits>},
      {"zero_gradient_bits", "0|4|8", "ZeRO-3: gradients quantised on the wire (ZeRO++ qgZ)", set_zero_group<&ZeroGroups::gradient_bits>, get_zero_group<&ZeroGroups::gradient_bits>},
      {"sp", "on|off", "sequence parallel: splits norms along tokens in a tp group", set_sp, get<&Strategy::sp>},
      {"micro_batch", "N", "sequences per forward pass and data-parallel rank", set_degree<&Strategy::micro_batch>, get<&Strategy::micro_batch>},
      {"recompute", "none|selective|full|N", "activations computed again in the backward pass; N: full, of N layers per stage", set_recompute,
       [](const Strategy& s) {
         return s.recompute_layers > 0 ? Json(s.recompute_layers) : Json(std::string(name_of(s.recompute)));
       }},
      {"schedule", "gpipe|1f1b|interleaved|zb-h1", "order of forward and backward passes in a pipeline",
       [](Strategy& s, const std::string& flag, const std::string& text) {
         s.schedule = read_name(flag, text, {Schedule::gpipe, Schedule::one_f_one_b,
                                             Schedule::interleaved, Schedule::zb_h1});
       },
       get_name<&Strategy::schedule>},
      {"layers_per_stage", "5,4,4,…", "uneven pipeline stages", set_layers, get<&Strategy::layers_per_stage>},
      {"attention", "flash|unfused", "attention kernel",
       [](Strategy& s, const std::string& flag, const std::string& text) {
         s.attention = read_name(flag, text, {AttentionKernel::flash, AttentionKernel::unfused});
       },
       get_name<&Strategy::attention>},
      {"grad_bucket", "N", "parameters whose gradients data-parallel ranks reduce together, at least; 0: the larger of 40M and dp million",
       [](Strategy& s, const std::string& flag, const std::string& text) {
         s.grad_bucket = text == "0" ? 0 : read_count(flag, text);
       },
       get<&Strategy::grad_bucket>},
      {"offload", "optimizer,…", "kept in host memory: optimizer, gradients, weights, activations", set_offload, offload_names},
  };
  return list;
}

}  // namespace

std::string StrategyField::flag() const { return "--" + dashed(name); }

std::span<const StrategyField> strategy_fields() { return fields(); }

const StrategyField* find_field(const std::string& name) {
  for (const StrategyField& f : fields())
    if (dashed(f.name) == dashed(name)) return &f;
  return nullptr;
}

Json strategy_json(const Strategy& s, const Workload& w) {
  Json object;
  for (const StrategyField& f : fields()) {
    if (f.name == "offload") {
      object["precision"] = precision_name(w.precision);
      object["optimizer"] = std::string(name_of(w.optimizer.kind));
    }
    object[f.name] = f.get(s);
  }
  return object;
}

std::int64_t read_integer(const std::string& flag, const std::string& text, std::int64_t low,
                          std::int64_t high) {
  const std::string hint = high == kMost ? fmt::format("a whole number from {}, such as {}", low, low + 3)
                                         : fmt::format("a whole number from {} to {}", low, high);
  const bool digits = !text.empty() && text.size() <= 18 && std::all_of(text.begin(), text.end(), [](char c) {
    return c >= '0' && c <= '9';
  });
  if (!digits || (text.size() > 1 && text[0] == '0')) refuse(flag, text, hint);
  const std::int64_t n = std::strtoll(text.c_str(), nullptr, 10);
  if (n < low || n > high) refuse(flag, text, hint);
  return n;
}

std::int64_t read_count(const std::string& flag, const std::string& text) {
  const std::string hint = "a whole number above 0, such as 4096, 1.5M or 100B";
  const bool plain = !text.empty() && text[0] >= '0' && text[0] <= '9' &&
                     !(text[0] == '0' && text.size() > 1 && text[1] != '.');
  if (!plain) refuse(flag, text, hint);
  std::int64_t n = 0;
  try {
    n = parse_count(text);
  } catch (const Error&) {
    refuse(flag, text, hint);
  }
  if (n < 1) refuse(flag, text, hint);
  return n;
}

double read_real(const std::string& flag, const std::string& text, double low, double high) {
  const std::string hint = fmt::format("a number from {:g} to {:g}", low, high);
  const bool plain = text.find_first_not_of("0123456789.eE-+") == std::string::npos;
  char* end = nullptr;
  const double x = plain ? std::strtod(text.c_str(), &end) : 0;
  if (!plain || text.empty() || *end != '\0' || !std::isfinite(x) || x < low || x > high)
    refuse(flag, text, hint);
  return x;
}

std::vector<std::string> split(const std::string& text, char separator) {
  std::vector<std::string> parts(1);
  for (char c : text) {
    if (c == separator) parts.emplace_back();
    else parts.back() += c;
  }
  return parts;
}

bool read_switch(const std::string& flag, const std::string& text) {
  if (text == "true" || text == "on" || text == "1") return true;
  if (text == "false" || text == "off" || text == "0") return false;
  refuse(flag, text, "on or off");
}

DType read_precision(const std::string& flag, const std::string& text) {
  for (DType t : {DType::fp32, DType::bf16, DType::fp16, DType::fp8_e4m3})
    if (text == precision_name(t) || dashed(text) == dashed(std::string(name_of(t)))) return t;
  refuse(flag, text, "one of: fp32 bf16 fp16 fp8");
}

OptimizerKind read_optimizer(const std::string& flag, const std::string& text) {
  return read_name(flag, text, {OptimizerKind::adamw, OptimizerKind::lion, OptimizerKind::sgd,
                                OptimizerKind::adamw_8bit, OptimizerKind::adafactor, OptimizerKind::adamw_lean});
}

std::string precision_name(DType t) {
  return t == DType::fp8_e4m3 || t == DType::fp8_e5m2 ? "fp8" : std::string(name_of(t));
}

}  // namespace llmplan::cli
