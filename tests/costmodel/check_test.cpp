// What a strategy must keep, and what the refusal tells the user to do.
#include <doctest/doctest.h>

#include "costmodel/estimate.h"

namespace llmplan {
namespace {

ModelConfig qwen() {  // Qwen2.5-7B's heads: the textbook case of tp=8 that cannot be
  ModelConfig m;
  m.name = "qwen";
  m.hidden_size = 3584, m.num_hidden_layers = 28, m.intermediate_size = 18944;
  m.num_attention_heads = 28, m.num_key_value_heads = 4, m.head_dim = 128, m.vocab_size = 152064;
  return m;
}
Cluster gpus(std::int64_t n) {
  Cluster c;
  c.name = "gpus";
  c.nodes = n > 8 ? n / 8 : 1;
  c.devices_per_node = n > 8 ? 8 : n;
  return c;
}
Workload batch(std::int64_t n, std::int64_t seq = 1024) {
  Workload w;
  w.seq = seq, w.global_batch = n;
  return w;
}
Strategy grid(std::int64_t tp, std::int64_t pp, std::int64_t dp) {
  Strategy s;
  s.tp = tp, s.pp = pp, s.dp = dp;
  return s;
}
bool mentions(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

TEST_CASE("heads that do not divide are refused with the tensor-parallel sizes that do") {
  const Infeasible i = check(qwen(), gpus(8), batch(8), grid(8, 1, 1));
  CHECK(i.constraint == "heads");
  CHECK(mentions(i.reason, "28 attention heads"));
  CHECK(i.hint == "valid tp: 1 2 4");
  CHECK(check(qwen(), gpus(8), batch(8), grid(4, 1, 2)).constraint.empty());
}

TEST_CASE("key/value heads are not copied by llmplan, but other software copies them") {
  ModelConfig m = qwen();
  m.num_attention_heads = 32;
  Workload w = batch(8);
  CHECK(check(m, gpus(8), w, grid(8, 1, 1)).constraint == "kv_heads");
  w.runtime = "megatron-core";
  CHECK(check(m, gpus(8), w, grid(8, 1, 1)).constraint.empty());
}

TEST_CASE("a batch that does not divide names the nearest that do") {
  Strategy s = grid(1, 1, 8);
  s.micro_batch = 4;
  const Infeasible i = check(qwen(), gpus(8), batch(100), s);
  CHECK(i.constraint == "batch");
  CHECK(mentions(i.hint, "96 or 128"));
}

TEST_CASE("layers per stage must have an entry per stage, no empty stage, and the model's sum") {
  Strategy s = grid(1, 4, 1);
  s.layers_per_stage = {7, 7, 14};
  CHECK(check(qwen(), gpus(4), batch(8), s).constraint == "layers");
  s.layers_per_stage = {7, 7, 7, 8};
  CHECK(mentions(check(qwen(), gpus(4), batch(8), s).reason, "29"));
  s.layers_per_stage = {0, 7, 7, 14};
  CHECK(check(qwen(), gpus(4), batch(8), s).constraint == "layers");
  s.layers_per_stage = {8, 7, 7, 6};
  CHECK(check(qwen(), gpus(4), batch(8), s).constraint.empty());
  CHECK(check(qwen(), gpus(64), batch(8), grid(1, 64, 1)).hint == "valid pp: 1 to 28");
}

TEST_CASE("settings that contradict each other are refused") {
  Strategy s = grid(1, 1, 1);
  s.sp = true;
  CHECK(check(qwen(), gpus(1), batch(8), s).constraint == "sp");
  s = grid(1, 2, 1);
  s.vpp = 2;
  CHECK(check(qwen(), gpus(2), batch(8), s).constraint == "schedule");
  s.vpp = 1, s.schedule = Schedule::interleaved;
  CHECK(check(qwen(), gpus(2), batch(8), s).constraint == "schedule");
  s = grid(1, 1, 1);
  s.recompute_layers = 3;
  CHECK(check(qwen(), gpus(1), batch(8), s).constraint == "recompute");
  s = grid(1, 1, 2);
  s.ep = 2;
  CHECK(check(qwen(), gpus(2), batch(8), s).constraint == "ep");
}

TEST_CASE("ZeRO and a schedule that have nothing to do are accepted") {
  Strategy s = grid(1, 1, 1);
  s.zero = 1, s.schedule = Schedule::gpipe;
  CHECK(check(qwen(), gpus(1), batch(8), s).constraint.empty());
}

TEST_CASE("all devices must be used, and a machine's cores take up to 64 ranks") {
  const Infeasible i = check(qwen(), gpus(8), batch(8), grid(2, 1, 1));
  CHECK(i.constraint == "devices");
  CHECK(i.hint == "dp=4 uses all of them");
  Cluster local = gpus(2);
  local.device.cpu = true;
  CHECK(check(qwen(), local, batch(64), grid(1, 1, 64)).constraint.empty());
  CHECK(check(qwen(), local, batch(128), grid(1, 1, 128)).constraint == "devices");
}

TEST_CASE("numbers out of any range are refused before anything is multiplied") {
  Strategy s = grid(1, 1, 1);
  s.tp = std::int64_t{1} << 62;
  CHECK(check(qwen(), gpus(1), batch(8), s).constraint == "range");
  s.tp = -1;
  CHECK(check(qwen(), gpus(1), batch(8), s).constraint == "range");
  s.tp = 0;
  CHECK(check(qwen(), gpus(1), batch(8), s).constraint == "range");
  s = grid(1 << 19, 1 << 19, 1 << 19);
  CHECK(check(qwen(), gpus(1), batch(8), s).constraint == "range");
  CHECK(check(qwen(), gpus(1), batch(0), grid(1, 1, 1)).constraint == "batch");
  ModelConfig m = qwen();
  m.num_hidden_layers = std::int64_t{1} << 60;
  CHECK(check(m, gpus(1), batch(8), grid(1, 1, 1)).constraint == "model");
}

}  // namespace
}  // namespace llmplan
