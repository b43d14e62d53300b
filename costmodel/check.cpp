// The rules that a strategy must keep before anything can be computed for it. Each refusal lists the
// values that would do.
#include <algorithm>
#include <numeric>

#include "costmodel/estimate.h"

namespace llmplan {
namespace {

using std::int64_t;

// Large enough for every machine on earth, small enough that products of sizes fit in an int64.
constexpr int64_t kMaxRanks = int64_t{1} << 20;
constexpr int64_t kMaxWidth = int64_t{1} << 24;
constexpr int64_t kMaxLocalRanks = 64;

std::string text(int64_t n) { return std::to_string(n); }

// "1 2 4 7 …": those of 1..limit for which `valid` holds, at most 12 of them.
template <class F>
std::string list_valid(int64_t limit, F valid) {
  std::string list;
  int shown = 0;
  for (int64_t n = 1; n <= limit && shown < 12; ++n) {
    if (!valid(n)) continue;
    list += (list.empty() ? "" : " ");
    list += text(n);
    ++shown;
  }
  return list;
}

std::string divisors(int64_t n, int64_t limit = 64) {
  return list_valid(std::min(n, limit), [n](int64_t i) { return n % i == 0; });
}

// The multiples of `step` on both sides of n.
std::string nearest_multiples(int64_t n, int64_t step) {
  const int64_t below = n / step * step;
  return (below > 0 ? text(below) + " or " : "") + text(below + step);
}

std::string times(const std::vector<std::pair<const char*, int64_t>>& factors) {
  std::string product;
  for (const auto& [name, value] : factors) {
    product += (product.empty() ? "" : " × ");
    product += name;
    product += "=";
    product += text(value);
  }
  return product;
}

Infeasible check_ranges(const Workload& w, const Strategy& s) {
  for (const auto& [name, value] : {std::pair{"tp", s.tp}, {"pp", s.pp}, {"vpp", s.vpp}, {"cp", s.cp},
                                    {"ep", s.ep}, {"dp", s.dp}, {"micro_batch", s.micro_batch}})
    if (value < 1 || value > kMaxRanks)
      return {"range", std::string(name) + "=" + text(value) + " is out of range",
              "give " + std::string(name) + " a value from 1 to " + text(kMaxRanks)};
  const double ranks = double(s.tp) * double(s.cp) * double(s.dp) * double(s.pp);
  if (ranks > double(kMaxRanks))
    return {"range", "tp × cp × dp × pp is more than 2^20 ranks", "choose fewer of each"};
  if (s.zero < 0 || s.zero > 3)
    return {"range", "zero=" + text(s.zero) + " does not exist", "valid zero: 0 1 2 3"};
  if (s.etp < 0 || s.etp > kMaxRanks || s.zero_groups.shard < 0 || s.zero_groups.shard > kMaxRanks ||
      s.zero_groups.secondary < 0 || s.zero_groups.secondary > kMaxRanks)
    return {"range", "etp, zero_shard or zero_secondary is out of range", "give numbers of ranks, or 0 to leave them off"};
  if (s.grad_bucket < 0)
    return {"range", "grad_bucket=" + text(s.grad_bucket) + " is negative",
            "give the elements that a gradient reduction holds at least, or 0 for the default"};
  if (s.recompute_layers < 0)
    return {"range", "recompute_layers=" + text(s.recompute_layers) + " is negative",
            "give the number of layers of each stage to recompute; 0 means all of them"};
  if (w.seq < 0 || w.seq > (int64_t{1} << 30))
    return {"range", "seq=" + text(w.seq) + " is out of range", "give a sequence length from 1 to 2^30"};
  if (w.global_batch < 1 || w.global_batch > (int64_t{1} << 30))
    return {"batch", "global_batch=" + text(w.global_batch) + " is out of range",
            "give the sequences per step, at least dp × micro_batch = " + text(s.dp * s.micro_batch)};
  return {};
}

Infeasible check_tensor_parallel(const ModelConfig& m, const Workload& w, const Strategy& s) {
  const auto both = [&](int64_t t) {
    const bool kv = m.num_key_value_heads % t == 0 ||
                    (w.runtime != "llmplan" && t % m.num_key_value_heads == 0);
    return m.num_attention_heads % t == 0 && (kv || m.kv_lora_rank > 0) &&
           m.intermediate_size % t == 0;
  };
  const auto valid = [&] { return "valid tp: " + list_valid(std::min<int64_t>(m.num_attention_heads, 4096), both); };
  if (m.num_attention_heads % s.tp != 0)
    return {"heads", text(m.num_attention_heads) + " attention heads cannot be split over tp=" + text(s.tp),
            valid()};
  // llmplan's own programs keep every key/value head on one rank; other software copies them.
  const bool copies = w.runtime != "llmplan" && s.tp % m.num_key_value_heads == 0;
  if (m.kv_lora_rank == 0 && m.num_key_value_heads % s.tp != 0 && !copies)
    return {"kv_heads",
            text(m.num_key_value_heads) + " key/value heads cannot be split over tp=" + text(s.tp), valid()};
  if (m.intermediate_size % s.tp != 0)
    return {"ffn", "intermediate_size=" + text(m.intermediate_size) + " cannot be split over tp=" + text(s.tp),
            valid()};
  if (s.sp && s.tp == 1)
    return {"sp", "sequence parallelism splits tokens over the tp group, and tp=1",
            "leave sp off, or choose tp > 1"};
  const int64_t rows = sequence_length(m, w) / s.cp * s.micro_batch;
  if (s.sp && rows % s.tp != 0)
    return {"sp", text(rows) + " tokens of a micro-batch cannot be split over tp=" + text(s.tp) + " under sp",
            "leave sp off, or choose a micro_batch × seq / cp that is a multiple of " + text(s.tp)};
  return {};
}

Infeasible check_context_parallel(const ModelConfig& m, const Workload& w, const Strategy& s) {
  // A causal mask is balanced by giving each rank one chunk from the front and one from the back.
  const int64_t seq = sequence_length(m, w);
  if (s.cp > 1 && seq % (2 * s.cp) != 0)
    return {"cp", "seq=" + text(seq) + " cannot be split into 2 × cp=" + text(2 * s.cp) + " chunks",
            "valid cp: " + list_valid(64, [&](int64_t c) { return c == 1 || seq % (2 * c) == 0; })};
  return {};
}

Infeasible check_experts(const ModelConfig& m, const Strategy& s) {
  if (s.ep == 1) return {};
  if (m.num_experts == 0)
    return {"ep", "the model is dense; ep=" + text(s.ep) + " has no experts to spread", "valid ep: 1"};
  const int64_t ranks = s.tp * s.cp * s.dp, etp = s.expert_tp();  // of a stage
  const auto valid = [&](int64_t e) { return m.num_experts % e == 0 && ranks % (e * etp) == 0; };
  const std::string hint = "valid ep: " + list_valid(std::min<int64_t>(m.num_experts, 4096), valid);
  if (m.num_experts % s.ep != 0)
    return {"ep", text(m.num_experts) + " experts cannot be split over ep=" + text(s.ep), hint};
  if (s.etp == 0 && (s.dp * s.cp) % s.ep != 0)
    return {"ep", "ep=" + text(s.ep) + " does not divide dp × cp = " + text(s.dp * s.cp),
            hint + (s.tp > 1 && ranks % s.ep == 0 ? "; or etp 1, which lays experts over tp, too" : "")};
  if (ranks % (s.ep * etp) != 0)
    return {"ep", "ep=" + text(s.ep) + " × etp=" + text(etp) + " does not divide tp × cp × dp = " + text(ranks), hint};
  return {};
}

Infeasible check_expert_tensor_parallel(const ModelConfig& m, const Strategy& s) {
  if (s.etp == 0) return {};
  if (m.num_experts == 0)
    return {"etp", "the model is dense; etp=" + text(s.etp) + " has no experts to split", "leave etp out"};
  const auto valid = [&](int64_t t) { return s.tp % t == 0 && m.moe_intermediate_size % t == 0; };
  if (valid(s.etp)) return {};
  return {"etp", "etp=" + text(s.etp) + " does not divide tp=" + text(s.tp) + " and the experts' width " +
                     text(m.moe_intermediate_size),
          "valid etp: " + list_valid(s.tp, valid)};
}

Infeasible check_zero_groups(const Strategy& s) {
  const ZeroGroups& z = s.zero_groups;
  const int64_t ranks = s.cp * s.dp;
  const auto one_of = [&](const char* name, int64_t n) {
    return Infeasible{"zero", std::string(name) + "=" + text(n) + " does not divide dp × cp = " + text(ranks),
                      std::string("valid ") + name + ": " + divisors(ranks, 4096)};
  };
  if (z.shard != 0) {
    if (s.zero == 0)
      return {"zero", "zero_shard=" + text(z.shard) + " groups the ranks of ZeRO, which is off", "choose zero 1, 2 or 3"};
    if (ranks % z.shard != 0) return one_of("zero_shard", z.shard);
  }
  if ((z.secondary != 0 || z.weight_bits != 0 || z.gradient_bits != 0) && s.zero != 3)
    return {"zero", "zero_secondary and quantised transfers belong to ZeRO-3, and zero=" + text(s.zero), "choose zero 3"};
  if (z.secondary != 0 && s.zero_shard() % z.secondary != 0) return one_of("zero_secondary", z.secondary);
  for (const auto& [name, bits] : {std::pair{"zero_weight_bits", z.weight_bits}, {"zero_gradient_bits", z.gradient_bits}})
    if (bits != 0 && bits != 4 && bits != 8)
      return {"zero", std::string(name) + "=" + text(bits) + " is not modelled", std::string("valid ") + name + ": 4 8"};
  return {};
}

Infeasible check_pipeline(const ModelConfig& m, const Workload& w, const Strategy& s) {
  const int64_t layers = m.num_hidden_layers, parts = s.pp * s.vpp;
  if (s.vpp > 1 && s.pp == 1)
    return {"schedule", "vpp=" + text(s.vpp) + " interleaves pipeline stages, and pp=1",
            "leave vpp at 1, or choose pp > 1"};
  if (s.vpp > 1 && s.schedule != Schedule::interleaved)
    return {"schedule", "vpp=" + text(s.vpp) + " needs the interleaved schedule, not " +
                            std::string(name_of(s.schedule)),
            "use schedule interleaved, or leave vpp at 1"};
  if (s.schedule == Schedule::interleaved && s.pp > 1 && s.vpp == 1)
    return {"schedule", "the interleaved schedule needs several chunks per stage, and vpp=1",
            "use schedule 1f1b, or choose vpp > 1"};
  if (parts > layers && s.layers_per_stage.empty())
    return {"layers", text(layers) + " layers cannot fill " + times({{"pp", s.pp}, {"vpp", s.vpp}}) + " stages",
            "valid pp: 1 to " + text(std::max<int64_t>(1, layers / s.vpp))};
  if (!s.layers_per_stage.empty()) {
    const auto& split = s.layers_per_stage;
    if (static_cast<int64_t>(split.size()) != parts)
      return {"layers", "layers_per_stage has " + text(static_cast<int64_t>(split.size())) + " entries for " +
                            text(parts) + " stages",
              "give one entry per stage, or leave it out for an even split"};
    int64_t sum = 0;
    for (std::size_t i = 0; i < split.size(); ++i) {
      const int64_t n = split[i];
      // The first and the last of interleaved chunks may hold the embedding and the head alone.
      const int64_t least = s.vpp > 1 && (i == 0 || i + 1 == split.size()) ? 0 : 1;
      if (n < least || n > layers)
        return {"layers", "a stage of " + text(n) + " layers is not possible",
                "every stage holds 1 to " + text(layers) + " of the model's layers"};
      sum += n;
    }
    if (sum != layers)
      return {"layers", "layers_per_stage adds up to " + text(sum) + ", the model has " + text(layers) + " layers",
              "change an entry by " + text(layers - sum) + ", or leave it out for an even split"};
  }
  const int64_t micro_batches = w.global_batch / (s.dp * s.micro_batch);
  if (s.vpp > 1 && micro_batches % s.pp != 0)
    return {"batch", "the interleaved schedule runs micro-batches in groups of pp=" + text(s.pp) + ", and there are " +
                         text(micro_batches),
            "nearest valid global batch: " +
                nearest_multiples(w.global_batch, s.dp * s.micro_batch * s.pp)};
  return {};
}

Infeasible check_batch(const Workload& w, const Strategy& s) {
  const int64_t step = s.dp * s.micro_batch;
  if (w.global_batch % step == 0) return {};
  const int64_t per_rank = w.global_batch % s.dp == 0 ? w.global_batch / s.dp : 0;
  return {"batch",
          "global batch " + text(w.global_batch) + " is not a multiple of " +
              times({{"dp", s.dp}, {"micro_batch", s.micro_batch}}) + " = " + text(step),
          "nearest valid global batch: " + nearest_multiples(w.global_batch, step) +
              (per_rank ? "; valid micro_batch at dp=" + text(s.dp) + ": " + divisors(per_rank)
                        : "; valid dp: " + divisors(w.global_batch, 4096))};
}

Infeasible check_recompute(const ModelConfig& m, const Strategy& s) {
  if (s.recompute_layers > 0 && s.recompute != Recompute::full)
    return {"recompute", "recompute_layers=" + text(s.recompute_layers) + " needs recompute full",
            "use recompute full, or leave recompute_layers at 0"};
  if (s.recompute_layers > m.num_hidden_layers)
    return {"recompute", "recompute_layers=" + text(s.recompute_layers) + " exceeds the model's " +
                             text(m.num_hidden_layers) + " layers",
            "0 recomputes all of them"};
  return {};
}

Infeasible check_devices(const Cluster& c, const Strategy& s) {
  const int64_t n = s.devices();
  const std::string product = times({{"tp", s.tp}, {"cp", s.cp}, {"dp", s.dp}, {"pp", s.pp}});
  if (c.device.cpu) {  // ranks share the machine's cores
    if (n <= kMaxLocalRanks * c.nodes) return {};
    return {"devices", product + " = " + text(n) + " ranks, more than this machine takes",
            "at most " + text(kMaxLocalRanks * c.nodes) + " ranks on " + c.name};
  }
  if (n == c.devices()) return {};
  const int64_t rest = s.tp * s.cp * s.pp;
  return {"devices", product + " = " + text(n) + ", the cluster has " + text(c.devices()) + " devices",
          c.devices() % rest == 0 ? "dp=" + text(c.devices() / rest) + " uses all of them"
                                  : "choose tp × cp × pp among the divisors of " + text(c.devices()) +
                                        ", or a cluster of " + text(n) + " devices"};
}

// A stage's ranks compute in step, so they sit on devices of one type.
Infeasible check_parts(const Cluster& c, const Strategy& s) {
  if (c.parts.empty()) return {};
  const int64_t stage = s.tp * s.cp * s.dp;
  for (int64_t i = 0; i < s.pp; ++i) {
    const std::size_t first = part_of(c, i * stage), last = part_of(c, (i + 1) * stage - 1);
    if (first == last) continue;
    int64_t common = 0;
    for (const Part& part : c.parts) common = std::gcd(common, part.nodes * c.devices_per_node);
    return {"parts", "stage " + text(i) + " of tp × cp × dp = " + text(stage) + " ranks would span " + c.parts[first].device.name + " and " +
                         c.parts[last].device.name + ", whose ranks would wait for each other at every layer",
            "choose tp × cp × dp among " + divisors(common, 4096) + ", and pp for the rest"};
  }
  return {};
}

}  // namespace

std::int64_t sequence_length(const ModelConfig& m, const Workload& w) {
  if (w.seq > 0) return w.seq;
  return m.max_position_embeddings > 0 ? std::min<int64_t>(m.max_position_embeddings, 4096) : 4096;
}

Infeasible check(const ModelConfig& m, const Cluster& c, const Workload& w, const Strategy& s) {
  if (m.hidden_size < 1 || m.num_hidden_layers < 1 || m.num_attention_heads < 1 || m.vocab_size < 1 ||
      m.num_key_value_heads < 1 || m.intermediate_size < 1)
    return {"model", "the model has a dimension that is not positive",
            "give hidden_size, intermediate_size, num_hidden_layers, num_attention_heads and vocab_size"};
  if (m.hidden_size > kMaxWidth || m.num_attention_heads > kMaxWidth || m.vocab_size > kMaxWidth ||
      m.intermediate_size > kMaxWidth || m.num_key_value_heads > kMaxWidth || m.num_hidden_layers > kMaxRanks ||
      m.head_dim > kMaxWidth)
    return {"model", "the model has a dimension beyond 2^24, or more than 2^20 layers",
            "check hidden_size, intermediate_size, heads, vocab_size and num_hidden_layers"};
  if (c.devices() < 1)
    return {"devices", "the cluster has no devices", "give nodes and devices_per_node of at least 1"};
  if (Infeasible i = check_ranges(w, s); !i.constraint.empty()) return i;
  if (Infeasible i = check_devices(c, s); !i.constraint.empty()) return i;
  if (Infeasible i = check_parts(c, s); !i.constraint.empty()) return i;
  if (Infeasible i = check_context_parallel(m, w, s); !i.constraint.empty()) return i;
  if (Infeasible i = check_tensor_parallel(m, w, s); !i.constraint.empty()) return i;
  if (Infeasible i = check_batch(w, s); !i.constraint.empty()) return i;
  if (Infeasible i = check_pipeline(m, w, s); !i.constraint.empty()) return i;
  if (Infeasible i = check_expert_tensor_parallel(m, s); !i.constraint.empty()) return i;
  if (Infeasible i = check_experts(m, s); !i.constraint.empty()) return i;
  if (Infeasible i = check_zero_groups(s); !i.constraint.empty()) return i;
  return check_recompute(m, s);
}

}  // namespace llmplan
