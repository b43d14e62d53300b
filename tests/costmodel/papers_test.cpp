// The closed form against formulas and tables that others published.
#include <doctest/doctest.h>

#include <cmath>

#include "costmodel/estimate.h"
#include "costmodel/profiles/profiles.h"
#include "costmodel/profiles/runtime_profile.h"

namespace llmplan {
namespace {

ModelConfig gpt(std::int64_t layers, std::int64_t hidden, std::int64_t heads, std::int64_t vocab = 51200) {
  ModelConfig m;
  m.name = "gpt";
  m.hidden_size = hidden, m.num_hidden_layers = layers, m.intermediate_size = 4 * hidden;
  m.num_attention_heads = m.num_key_value_heads = heads, m.head_dim = hidden / heads;
  m.vocab_size = vocab, m.tie_word_embeddings = true;
  m.mlp = Mlp::gelu, m.norm = Norm::layer, m.positions = Positions::learned;
  m.qkv_bias = m.attention_out_bias = m.mlp_bias = m.norm_bias = true;
  return m;
}

Cluster machines(std::int64_t devices) {
  Cluster c;
  c.devices_per_node = std::min<std::int64_t>(devices, 8);
  c.nodes = devices / c.devices_per_node;
  c.device.memory = 80_GiB;
  c.device.peak[DType::bf16] = c.device.peak[DType::fp16] = {312e12};
  c.device.vector_peak = {19.5e12};
  c.device.memory_bandwidth = {2e12};
  c.intra = c.inter = {"link", {1e11}, {1e-6}, {}};
  return c;
}

struct Korthikanti {
  ModelConfig model;
  std::int64_t micro_batch, pp, vpp, batch;
  double baseline_gib;                                   // activations of tensor parallelism alone
  double sp, selective, sp_selective, full;              // percent of that
};

Estimate of(const Korthikanti& k, bool sp, Recompute recompute) {
  Strategy s;
  s.tp = 8, s.pp = k.pp, s.vpp = k.vpp, s.micro_batch = k.micro_batch, s.sp = sp, s.recompute = recompute;
  s.schedule = k.vpp > 1 ? Schedule::interleaved : Schedule::one_f_one_b;
  s.attention = AttentionKernel::unfused;
  Workload w;
  w.seq = 2048, w.global_batch = k.batch, w.precision = DType::fp16, w.runtime = "megatron-lm-2022";
  const auto e = estimate(k.model, machines(s.devices()), w, s, read_runtime("megatron-lm-2022"));
  REQUIRE(std::holds_alternative<Estimate>(e));
  return std::get<Estimate>(e);
}

TEST_CASE("activations are those of Korthikanti et al. 2022, in GiB and in percent of tensor parallelism alone") {
  const Korthikanti models[] = {
      {gpt(48, 6144, 64), 4, 1, 1, 4, 59.25, 66.84, 49.42, 16.18, 7.64},
      {gpt(96, 12288, 96), 1, 8, 3, 64, 66.84375, 62.04, 56.53, 18.49, 8.71},
      {gpt(105, 20480, 128), 1, 35, 3, 280, 114.0234375, 58.31, 62.04, 20.27, 9.42},
      {gpt(128, 25600, 160), 1, 64, 1, 512, 131.25, 58.31, 62.04, 20.27, 9.42},
  };
  for (const Korthikanti& k : models) {
    CAPTURE(k.model.hidden_size);
    const auto bytes = [&](bool sp, Recompute r) {
      return static_cast<double>(of(k, sp, r).memory_per_stage.front().activations.value);
    };
    const double whole = bytes(false, Recompute::none);
    CHECK(whole / (1 << 30) == doctest::Approx(k.baseline_gib).epsilon(1e-4));
    const auto percent = [&](bool sp, Recompute r) { return 100 * bytes(sp, r) / whole; };
    // Half a point: the paper's figures are read off bars.
    CHECK(std::abs(percent(true, Recompute::none) - k.sp) < 0.5);
    CHECK(std::abs(percent(false, Recompute::selective) - k.selective) < 0.5);
    CHECK(std::abs(percent(true, Recompute::selective) - k.sp_selective) < 0.5);
    CHECK(std::abs(percent(false, Recompute::full) - k.full) < 0.5);
  }
}

TEST_CASE("FLOPs are Megatron's 72·B·s·l·h²·(1 + s/6h + V/12lh), a full causal mask as a full matrix") {
  for (const auto& [layers, hidden, heads] : {std::tuple{48, 6144, 64}, {96, 12288, 96}, {24, 1024, 16}}) {
    const ModelConfig m = gpt(layers, hidden, heads);
    Workload w;
    w.seq = 2048, w.global_batch = 512;
    const double s = 2048, b = 512, l = layers, h = hidden, v = 51200;
    const double paper = 72 * b * s * l * h * h * (1 + s / (6 * h) + v / (12 * l * h));
    CHECK(step_flops(m, w, {}).model_full.value == doctest::Approx(paper).epsilon(1e-12));
  }
}

TEST_CASE("with full recomputation the layers' forward counts once more: Narayanan et al. 2021's 96·B·s·l·h²") {
  const ModelConfig m = gpt(96, 12288, 96);
  Workload w;
  w.seq = 2048, w.global_batch = 1536;
  Strategy s;
  s.recompute = Recompute::full;
  const StepFlops f = step_flops(m, w, s);
  const double attention_halved = f.model_full.value - f.model_causal.value;  // of three forward-equivalents
  const double paper = 96.0 * 1536 * 2048 * 96 * 12288.0 * 12288 * (1 + 2048 / (6.0 * 12288) + 51200 / (16.0 * 96 * 12288));
  CHECK(f.hardware.value + attention_halved * 4 / 3 == doctest::Approx(paper).epsilon(1e-9));
}

// Kaplan's estimate and the after-training script of Fast_LLM: 8·N·tokens, all of it recomputed. llmplan
// counts what is there: without the embedding look-up, with attention, and recomputation only where it happens.
TEST_CASE("Fast_LLM's 134.93 TFLOP/s is 8·N·tokens, a third more than the model's own work") {
  const double n = 7e9, seq = 4096, batch = 128, seconds = 6.8, devices = 32;
  const double theirs = 8 * n * seq * batch / (seconds * devices) / 1e12;
  CHECK(std::round(theirs * 100) / 100 == 134.93);
  const double model_only = 6 * n * seq * batch / (seconds * devices) / 1e12;
  CHECK(std::round(model_only * 100) / 100 == 101.2);
  const ModelConfig llama = read_model("llama-2-7b");
  Workload w;
  w.seq = 4096, w.global_batch = 128;
  const double ours = step_flops(llama, w, {}).model_full.value / (seconds * devices) / 1e12;
  // 6.607e9 multiplied weights instead of 7e9, plus 12·L·h·s of attention: 45.9 GFLOP per token.
  CHECK(ours == doctest::Approx((6 * 6.607e9 + 12.0 * 32 * 4096 * 4096) * 4096 * 128 / (seconds * devices) / 1e12).epsilon(1e-3));
}

// Fast_LLM's table for LLAMA-70B on 6 nodes of 4: formulas of its 1.pre_train_math.py, in units of 1e9.
struct FastLlm {
  double hidden = 8192, layers = 80, seq = 4096, vocab = 32000, batch = 8, devices = 24;
  double heads = 0;  // 0: the version without attention scores
  double model() const { return (layers * (12 * hidden * hidden + 6 * hidden) + vocab * hidden + seq * hidden + hidden) / 1e9; }
  double activation() const {
    return std::sqrt((34 * batch * seq * hidden + 5 * seq * seq * batch * heads) * layers / 1e9);
  }
  double input_all() const { return batch * seq * hidden / 1e9 + activation(); }
  double zero(double whole, double sharded) const { return (whole + sharded / devices) * model() + 2 * input_all(); }
  double zero1_tp_pp() const { return model() * (4 + 12) / 6 / 4 + 2 * input_all() / 4; }
};
double cents(double x) { return std::round(x * 100) / 100; }

TEST_CASE("Fast_LLM's table for 70B on 6 x 4 GPUs is what its formulas give, in both versions") {
  FastLlm readme;
  CHECK(cents(readme.model()) == 64.72);
  CHECK(cents(16 * readme.model() + 2 * readme.input_all()) == 1090.17);
  CHECK(cents(readme.zero(4, 12)) == 345.84);
  CHECK(cents(readme.zero(2, 14)) == 221.78);
  CHECK(cents(readme.zero(0, 16)) == 97.73);
  CHECK(cents(readme.zero1_tp_pp()) == 56.79);
  FastLlm head = readme;
  head.heads = 8;
  CHECK(cents(16 * head.model() + 2 * head.input_all()) == 1104.23);
  CHECK(cents(head.zero(4, 12)) == 359.9);
  CHECK(cents(head.zero(2, 14)) == 235.85);
  CHECK(cents(head.zero(0, 16)) == 111.79);
  CHECK(cents(head.zero1_tp_pp()) == 60.31);
}

TEST_CASE("for that 70B plan llmplan differs from Fast_LLM by the parameters, the batch in flight and the square root") {
  const ModelConfig m = read_model("llama-2-70b");
  CHECK(parameters(m) == 68'976'648'192);  // grouped queries, a gated MLP and an untied head; not 64.72 B
  Strategy s;
  s.tp = 4, s.pp = 6, s.micro_batch = 8, s.recompute = Recompute::full;
  Cluster c = machines(24);
  c.devices_per_node = 4, c.nodes = 6;
  Workload w;
  w.seq = 4096, w.global_batch = 8 * 6;
  const auto result = estimate(m, c, w, s);
  const Estimate& e = std::get<Estimate>(result);
  // States: 18 bytes per parameter (bf16 weight, fp32 gradient, fp32 master, two moments), not 16, of the larger
  // stages' 14 layers of 80.
  const double layer = 8192.0 * (8192 * 2 + 2 * 1024) + 3 * 8192.0 * 28672 + 2 * 8192;
  const Memory& middle = e.memory_per_stage[1];
  const double states = static_cast<double>((middle.weights + middle.gradients + middle.optimizer).value);
  CHECK(states == doctest::Approx(18 * 14 * layer / 4).epsilon(1e-3));
  // Checkpoints grow with the layers and micro-batches in flight (5 here), not with a square root of bytes.
  const double checkpoints = 5.0 * 14 * 2 * 8 * 4096 * 8192;
  CHECK(static_cast<double>(middle.activations.value) > checkpoints);
  CHECK_FALSE(e.fits);
}

// megatron/training/theoretical_memory_usage.py: 18 bytes per parameter, or 6 + 12/dp with the
// distributed optimizer; activations s·b·h·(18 + 4·f/h) per layer with sp and selective recomputation.
TEST_CASE("weights, gradients and optimizer are Megatron's 18 bytes per parameter, or 6 + 12/dp") {
  const ModelConfig m = gpt(24, 2048, 16);
  Runtime megatron = read_runtime("megatron-core");
  megatron.gradient_placeholders = false;
  for (const int zero : {0, 1}) {
    Strategy s;
    s.dp = 8, s.zero = zero;
    Workload w;
    w.seq = 2048, w.global_batch = 8, w.runtime = "megatron-core";
    const auto result = estimate(m, machines(8), w, s, megatron);
    const Memory& memory = std::get<Estimate>(result).memory;
    const double states = static_cast<double>((memory.weights + memory.gradients + memory.optimizer).value);
    const double n = static_cast<double>(parameters(m));
    CHECK(states == doctest::Approx((zero ? 6 + 12.0 / 8 : 18) * n).epsilon(2e-3));  // learned positions' rows, padding
  }
}

// FlagScale's theoretical_memory_usage.py: MiB of states and of activations of the first stage.
struct FlagScale {
  double hidden = 4096, layers = 32, ffn = 11008, vocab = 100096, tokens = 2 * 2048;  // aquila-7b, micro-batch 2
  double tp = 1, pp = 1, dp = 8, in_flight = 1;
  double layer() const { return 4 * hidden * hidden + 3 * hidden * ffn + 4 * hidden; }
  double states() const {
    const double tables = (pp == 1 ? 2 : 1) * vocab * hidden;
    return (layers / pp * layer() + tables + hidden / pp) / tp * (6 + 12 / dp) / (1 << 20);
  }
  double layer_activations() const { return tokens * (18 * hidden + 6 * ffn); }  // flash attention
  double activations() const {
    const double ends = in_flight * (8 * tokens + tokens * hidden) + (pp == 1 ? 4 * tokens * (hidden + vocab) : 0);
    return (layers / pp * in_flight * layer_activations() + ends) / tp / (1 << 20);
  }
};

TEST_CASE("FlagScale's memory figures for aquila-7b are what its formulas give") {
  FlagScale f;
  CHECK(f.states() == doctest::Approx(52188.81).epsilon(1e-6));
  CHECK(f.activations() == doctest::Approx(19116.03).epsilon(1e-6));
  f.tp = 2, f.dp = 4;
  CHECK(f.states() == doctest::Approx(31313.32).epsilon(1e-5));
  CHECK(f.activations() == doctest::Approx(9558.02).epsilon(1e-6));
  f.tp = 1, f.dp = 2, f.pp = 4, f.in_flight = 4;
  CHECK(f.states() == doctest::Approx(23221.52).epsilon(1e-5));
  CHECK(f.activations() == doctest::Approx(17536.12).epsilon(1e-6));
}

TEST_CASE("llmplan keeps FlagScale's activations per layer and the softmax statistics that it leaves out") {
  ModelConfig m;
  m.name = "aquila-7b";
  m.hidden_size = 4096, m.num_hidden_layers = 32, m.intermediate_size = 11008, m.head_dim = 128;
  m.num_attention_heads = m.num_key_value_heads = 32, m.vocab_size = 100096;
  Runtime r = read_runtime("megatron-core");
  r.dropout = true;  // FlagScale counts the masks, though Llama models train without
  Strategy s;
  s.dp = 8, s.zero = 1, s.micro_batch = 2;
  Workload w;
  w.seq = 2048, w.global_batch = 16, w.runtime = "megatron-core";
  const auto result = estimate(m, machines(8), w, s, r);
  const Memory& ours = std::get<Estimate>(result).memory;
  const FlagScale f;
  const double statistics = 4.0 * 32 * 4096 * 32;  // fp32 per head, token and layer
  CHECK(static_cast<double>(ours.activations.value) == doctest::Approx(32 * f.layer_activations() + statistics).epsilon(1e-12));
  const double states = static_cast<double>((ours.weights + ours.gradients + ours.optimizer).value) / (1 << 20);
  // FlagScale gives every norm a bias; RMSNorm has none.
  CHECK(states == doctest::Approx(f.states() - 32 * 2 * 4096 * 7.5 / (1 << 20)).epsilon(1e-7));
}

}  // namespace
}  // namespace llmplan
