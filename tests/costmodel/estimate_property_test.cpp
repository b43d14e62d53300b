// What must hold of every estimate, whatever the input: 10^6 random inputs.
#include <doctest/doctest.h>

#include <array>
#include <cmath>
#include <optional>
#include <random>

#include "costmodel/estimate.h"

namespace llmplan {
namespace {

struct Input {
  ModelConfig model;
  Cluster cluster;
  Workload workload;
  Strategy strategy;
  Runtime runtime;
};

struct Draw {
  std::mt19937_64 random;
  std::int64_t between(std::int64_t low, std::int64_t high) {
    return low + static_cast<std::int64_t>(random() % static_cast<std::uint64_t>(high - low + 1));
  }
  std::int64_t power(int low, int high) { return std::int64_t{1} << between(low, high); }
  bool flip() { return random() & 1; }
  double real(double low, double high) {
    return low + (high - low) * static_cast<double>(random() >> 11) * 0x1p-53;
  }
};

Input draw(std::uint64_t seed) {
  Draw d{std::mt19937_64(seed)};
  Input in;
  ModelConfig& m = in.model;
  m.head_dim = d.power(4, 8);
  m.num_attention_heads = d.power(0, 7);
  m.num_key_value_heads = std::min(m.num_attention_heads, d.power(0, 4));
  m.hidden_size = d.between(1, 160) * 128;
  m.intermediate_size = d.between(1, 400) * 128;
  m.num_hidden_layers = d.between(1, 140);
  m.vocab_size = d.between(2, 300000);
  m.tie_word_embeddings = d.flip();
  if (d.between(0, 2) == 0) m.mlp = Mlp::gelu, m.norm = Norm::layer, m.mlp_bias = m.qkv_bias = d.flip();
  if (d.between(0, 3) == 0) {
    m.num_experts = d.power(1, 8), m.num_experts_per_tok = std::min(m.num_experts, d.between(1, 8));
    m.moe_intermediate_size = d.between(1, 100) * 64;
    m.first_k_dense_replace = d.between(0, m.num_hidden_layers);
  }
  Strategy& s = in.strategy;
  s.tp = d.power(0, 4), s.pp = d.power(0, 4), s.dp = d.power(0, 7), s.cp = d.between(0, 3) ? 1 : d.power(0, 3);
  if (m.num_experts) s.ep = d.power(0, 4);
  s.zero = static_cast<int>(d.between(0, 3)), s.sp = s.tp > 1 && d.flip(), s.micro_batch = d.power(0, 5);
  s.recompute = static_cast<Recompute>(d.between(0, 2));
  if (s.recompute == Recompute::full) s.recompute_layers = d.between(0, 2) ? 0 : d.between(0, 8);
  s.schedule = static_cast<Schedule>(d.between(0, 3));
  if (s.schedule == Schedule::interleaved) s.pp > 1 ? void(s.vpp = d.power(1, 2)) : void(s.schedule = Schedule::gpipe);
  if (d.between(0, 3) == 0) s.attention = AttentionKernel::unfused;
  if (d.between(0, 7) == 0) s.offload.optimizer = true;
  if (d.between(0, 15) == 0) s.offload.activations = true;
  in.workload.seq = d.power(4, 17);
  in.workload.global_batch = s.dp * s.micro_batch * d.power(0, 6);
  in.workload.optimizer.kind = static_cast<OptimizerKind>(d.between(0, 4));
  in.workload.precision = std::array{DType::bf16, DType::fp16, DType::fp32, DType::fp8_e4m3}[static_cast<std::size_t>(d.between(0, 3))];
  in.workload.runtime = "some other";
  Cluster& c = in.cluster;
  c.devices_per_node = std::min<std::int64_t>(s.devices(), 8);
  c.nodes = s.devices() / c.devices_per_node;
  Device& v = c.device;
  v.memory = {d.power(33, 38)};
  v.peak[DType::bf16] = v.peak[DType::fp16] = {d.real(1e14, 3e15)};
  v.peak[DType::fp8_e4m3] = {2 * v.peak[DType::bf16].value};
  v.vector_peak = {d.real(1e13, 1e14)};
  v.memory_bandwidth = {d.real(1e12, 8e12)};
  v.gemm_efficiency = v.memory_efficiency = {{{1, d.real(0.2, 1)}}};
  v.attention_efficiency = {{{128, 0.2}, {8192, d.real(0.3, 0.9)}}};
  v.launch = {d.real(0, 1e-5)};
  v.sms = d.flip() ? 132 : 0;
  c.intra = {"inside", {d.real(1e10, 9e11)}, {d.real(1e-6, 1e-5)}, {}};
  c.inter = {"between", {d.real(1e9, 1e11)}, {d.real(1e-6, 3e-5)}, {}};
  Runtime& r = in.runtime;
  r.lowered = d.flip();
  r.pointwise = d.real(0.5, 5), r.dispatch = {d.real(0, 3e-5)}, r.step_overhead = {d.real(0, 0.1)};
  r.dp_overlap = d.real(0, 1), r.gather_overlap = d.real(0, 1), r.tp_overlap = d.real(0, 1), r.pp_overlap = d.real(0, 1);
  r.fp32_parameters = d.flip(), r.dropout = d.flip(), r.gradient_placeholders = d.flip();
  r.gradient_bytes = d.flip() ? 4 : 2, r.selective = d.flip() ? Selective::attention : Selective::matmuls;
  r.cp = static_cast<ContextParallel>(d.between(0, 2)), r.straggling = d.real(0, 0.01);
  return in;
}

std::optional<Estimate> run(const Input& in) {
  auto result = estimate(in.model, in.cluster, in.workload, in.strategy, in.runtime);
  if (auto* e = std::get_if<Estimate>(&result)) return std::move(*e);
  return {};
}

bool sound(double x) { return std::isfinite(x) && x >= 0; }

// Empty, or what is wrong.
std::string fault(const Estimate& e) {
  const Time& t = e.time;
  double sum = 0;
  for (Seconds part : {t.compute, t.tp_comm, t.cp_comm, t.ep_comm, t.dp_comm, t.pp_comm, t.bubble, t.optimizer, t.host}) {
    if (!sound(part.value)) return "a part of the time is negative or not finite";
    sum += part.value;
  }
  if (!(t.step.value > 0) || !std::isfinite(t.step.value)) return "the step takes no time";
  if (std::abs(sum - t.step.value) > 1e-9 * t.step.value) return "the parts do not add up to the step";
  for (const Memory& m : e.memory_per_stage) {
    std::int64_t bytes = 0;
    for (Bytes part : {m.weights, m.gradients, m.optimizer, m.activations, m.logits, m.buffers, m.reserve}) {
      if (part.value < 0) return "a part of the memory is negative";
      bytes += part.value;
    }
    if (bytes != m.peak.value) return "the parts do not add up to the peak";
    if (m.peak > e.memory.peak) return "a stage needs more than the peak stage";
  }
  for (const Communication& c : e.communication) {
    if (c.bytes_per_device.value < 0 || c.count < 0) return "a communication has a negative size";
    if (!sound(c.seconds.value) || !sound(c.exposed_seconds.value)) return "a communication's time is not sound";
    if (c.exposed_seconds.value > c.seconds.value * (1 + 1e-9) + 1e-12 && c.group != "pp") return "more is exposed than there is: " + c.group;
  }
  if (!sound(e.flops.model_causal.value) || e.flops.model_causal > e.flops.model_full || e.flops.hardware < e.flops.model_causal)
    return "FLOPs are out of order";
  if (!sound(e.tokens_per_s) || !sound(e.tflops_per_device)) return "a rate is not sound";
  if (e.fits != (e.memory.peak <= e.memory.capacity) || e.fits != e.reason.empty()) return "fits and its reason disagree";
  return "";
}

TEST_CASE("a million random inputs: components add up, nothing overflows, nothing is NaN") {
  std::int64_t priced = 0;
  for (std::uint64_t seed = 0; seed < 1'000'000; ++seed) {
    const auto e = run(draw(seed));
    if (!e) continue;
    ++priced;
    const std::string what = fault(*e);
    if (!what.empty()) FAIL_CHECK("seed " << seed << ": " << what << " (" << describe(e->strategy) << ")");
  }
  CHECK(priced > 300'000);  // the others cannot be built, such as heads that do not divide
}

// Compares an input with a changed copy wherever both can be built.
template <class Change, class Compare>
std::int64_t compare(std::uint64_t seeds, Change change, Compare holds) {
  std::int64_t compared = 0;
  for (std::uint64_t seed = 0; seed < seeds; ++seed) {
    const Input before = draw(seed);
    Input after = before;
    if (!change(after)) continue;
    const auto a = run(before), b = run(after);
    if (!a || !b) continue;
    ++compared;
    const std::string what = holds(*a, *b);
    if (!what.empty()) FAIL_CHECK("seed " << seed << ": " << what << " (" << describe(before.strategy) << ")");
  }
  return compared;
}

std::string state_grows(const Estimate& a, const Estimate& b) {
  for (std::size_t i = 0; i < a.memory_per_stage.size(); ++i) {
    const Memory &x = a.memory_per_stage[i], &y = b.memory_per_stage[i];
    // A slice is rounded up to whole cache lines per rank.
    const Bytes pad = 1_MiB;
    if (y.weights > x.weights + pad || y.gradients > x.gradients + pad || y.optimizer > x.optimizer + pad)
      return "more sharding raises a state";
  }
  return "";
}

TEST_CASE("a higher ZeRO stage never raises weights, gradients or optimizer state") {
  CHECK(compare(60'000, [](Input& in) { in.runtime.lowered = false; return ++in.strategy.zero <= 3; },
                [](const Estimate& a, const Estimate& b) {
                  for (std::size_t i = 0; i < a.memory_per_stage.size(); ++i) {
                    const Memory &x = a.memory_per_stage[i], &y = b.memory_per_stage[i];
                    // With fp32 parameters (FSDP) the master copy and the weights are one: their sum counts.
                    if (y.weights + y.optimizer > x.weights + x.optimizer || y.gradients > x.gradients)
                      return std::string("a higher ZeRO stage raises a state");
                  }
                  return std::string();
                }) > 10'000);
}

TEST_CASE("twice the tensor parallelism never raises weights, gradients or optimizer state") {
  CHECK(compare(60'000,
                [](Input& in) {
                  in.strategy.tp *= 2;
                  in.cluster.nodes *= in.cluster.devices_per_node < 8 ? 1 : 2;
                  in.cluster.devices_per_node *= in.cluster.devices_per_node < 8 ? 2 : 1;
                  return in.strategy.zero == 0;
                },
                state_grows) > 1'000);
}

TEST_CASE("twice the data parallelism never raises any state under ZeRO") {
  CHECK(compare(60'000,
                [](Input& in) {
                  in.strategy.dp *= 2, in.workload.global_batch *= 2;
                  in.cluster.nodes *= in.cluster.devices_per_node < 8 ? 1 : 2;
                  in.cluster.devices_per_node *= in.cluster.devices_per_node < 8 ? 2 : 1;
                  return true;
                },
                state_grows) > 5'000);
}

std::string time_or_memory_falls(const Estimate& a, const Estimate& b) {
  if (b.time.step.value < a.time.step.value * (1 - 1e-9)) return "more work takes less time";
  if (b.memory.peak < a.memory.peak) return "more work needs less memory";
  return "";
}

TEST_CASE("twice the batch never takes less time or memory") {
  CHECK(compare(60'000, [](Input& in) { in.workload.global_batch *= 2; return true; }, time_or_memory_falls) > 10'000);
}

TEST_CASE("twice the sequence never takes less time or memory") {
  // Not so under the zero-bubble schedule: the larger share of weight gradients in a longer pass fills more of
  // the bubble, which outweighs the rest where the host sets the pace.
  CHECK(compare(60'000, [](Input& in) { in.workload.seq *= 2; return in.strategy.schedule != Schedule::zb_h1; },
                time_or_memory_falls) > 10'000);
}

TEST_CASE("another layer per stage never takes less time or memory") {
  CHECK(compare(60'000,
                [](Input& in) {
                  in.model.num_hidden_layers += in.strategy.pp * in.strategy.vpp;
                  return in.model.num_experts == 0;
                },
                time_or_memory_falls) > 10'000);
}

}  // namespace
}  // namespace llmplan
