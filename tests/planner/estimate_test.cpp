// The closed form and the lowered program are two readings of one list of ops.
#include <doctest/doctest.h>

#include <algorithm>
#include <map>

#include "costmodel/block.h"
#include "planner/build.h"
#include "planner/lower.h"
#include "planner/overlap.h"
#include "planner/simulate.h"
#include "tests/planner/plans.h"

namespace llmplan {
namespace {

// Ops by equality; sends and receives apart, which the closed form counts as hops.
struct Tally {
  std::vector<std::pair<Op, std::int64_t>> ops;
  void add(const Op& op, std::int64_t times = 1) {
    for (auto& [known, count] : ops)
      if (known == op) {
        count += times;
        return;
      }
    ops.emplace_back(op, times);
  }
  std::int64_t count(const Op& op) const {
    for (const auto& [known, n] : ops)
      if (known == op) return n;
    return 0;
  }
};

Tally of_program(const Program& p) {
  Tally t;
  for (const Instr& i : p.instrs)
    if (!std::holds_alternative<Send>(i.op) && !std::holds_alternative<Recv>(i.op)) t.add(i.op);
  return t;
}

Tally of_block(const Plan& plan, std::int64_t stage) {
  const Shapes s = shapes_of(plan.model, plan.cluster, plan.workload, plan.strategy);
  const auto layers = layer_split(plan.strategy, plan.model.num_hidden_layers);
  const StagePlace place{stage, plan.strategy.pp, layers[static_cast<std::size_t>(stage)]};
  const Strategy& st = plan.strategy;
  Tally t;
  const auto each = [&](const Op& op) { t.add(op); };
  for (std::int64_t mb = 0; mb < plan.micro_batches(); ++mb) {
    const bool accumulate = mb > 0;
    block::stage_forward(s, place, accumulate, [&](const Op& op, std::int64_t n) { t.add(op, n); });
    block::stage_backward(s, place, accumulate, each);
    for (std::int64_t layer = 0; layer < place.layers; ++layer) {
      const bool again = st.recompute == Recompute::full && (st.recompute_layers == 0 || layer < st.recompute_layers);
      block::layer_forward(s, layer == 0, each);
      if (again) block::layer_recompute(s, each);
      block::layer_backward(s, accumulate, again, each);
    }
  }
  const block::Buckets buckets = block::buckets_of(s, place);
  if (s.tied && st.pp > 1 && (place.first() || place.last())) t.add(block::embedding_sum(s));
  if (s.sp) t.add(block::norms_sum(buckets));
  if (st.devices() > 1) t.add(block::world_sum());
  if (s.scaled()) t.add(LossScale{s.scale_window});
  bool first = true;
  for (const auto& [count, elements, layers_in] : buckets.runs)
    for (std::int64_t k = 0; k < count; ++k) {
      if (s.dp > 1) t.add(block::bucket_sum(s, elements));
      t.add(block::bucket_stats(s, elements, !first));
      t.add(block::bucket_update(s, elements));
      if (s.shards > 1) t.add(block::bucket_gather(s, elements));
      first = false;
    }
  return t;
}

void check_same_ops(const Plan& plan) {
  const std::vector<Program> programs = lower(plan);
  for (const Program& p : programs) {
    CAPTURE(describe(plan.strategy));
    CAPTURE(p.stage);
    const Tally lowered = of_program(p), closed = of_block(plan, p.stage);
    for (const auto& [op, n] : lowered.ops) {
      CAPTURE(kind_of(op));
      CAPTURE(flops(op).value);
      CHECK(closed.count(op) == n);
    }
    for (const auto& [op, n] : closed.ops) {
      CAPTURE(kind_of(op));
      CHECK(lowered.count(op) == n);
    }
  }
}

TEST_CASE("every stage of every strategy runs exactly the ops that the closed form sums over") {
  for (const Strategy& s : strategy_grid()) {
    Plan plan = tiny_plan(s, 3);
    check_same_ops(plan);
    plan.model.tie_word_embeddings = true;
    check_same_ops(plan);
  }
}

TEST_CASE("a device's bf16 program has the same ops as its closed form") {
  Strategy s;
  s.tp = 2, s.pp = 2, s.dp = 2, s.zero = 1, s.sp = true, s.micro_batch = 2;
  Plan plan = tiny_plan(s, 2);
  plan.workload.precision = DType::bf16;
  plan.cluster.device.cpu = false;
  plan.cluster.devices_per_node = 8;
  check_same_ops(plan);
}

TEST_CASE("fp16, lean and fp8 programs, and those of packed documents, have the same ops as their closed forms") {
  for (int variant = 0; variant < 5; ++variant)
    for (const Strategy& s : strategy_grid()) {
      Plan plan = tiny_plan(s, 2);
      Workload& w = plan.workload;
      w.precision = variant == 0 ? DType::fp16 : variant == 1 ? DType::bf16 : variant == 2 ? DType::fp32 : DType::fp8_e4m3;
      if (variant == 1 || variant == 4) w.optimizer.kind = OptimizerKind::adamw_lean;
      w.documents = variant == 2 || variant == 4;
      CAPTURE(variant);
      if (!why_not_lowerable(plan).constraint.empty()) {  // rows or heads of the tiny model that 16 does not divide
        CHECK(variant >= 3);
        CHECK(s.tp > 1);
        continue;
      }
      check_same_ops(plan);
    }
}

// Prices every op as the closed form does, without contention.
struct Alone : TimeModel {
  const Plan& plan;
  explicit Alone(const Plan& p) : plan(p) {}
  Seconds time(const Op& op) const override {
    if (is_transfer(op)) return transfer_time(op, plan.cluster, plan.strategy);
    return op_time(op, plan.cluster.device, static_cast<int>(plan.strategy.devices()), 1);
  }
};

TEST_CASE("with overlap off, the closed form takes as long as the simulated program") {
  int compared = 0;
  for (const Strategy& s : strategy_grid()) {
    for (const std::int64_t micro_batches : {1, 4, 7}) {
      Plan plan = tiny_plan(s, micro_batches);
      plan.cluster = cpu_cluster(s.devices());  // a core per rank
      const auto closed = std::get<Estimate>(estimate(plan.model, plan.cluster, plan.workload, plan.strategy));
      std::vector<Program> programs = lower(plan);
      for (Program& p : programs) overlap(p, false);
      const Simulation simulated = simulate(programs, Alone(plan));
      REQUIRE(simulated.deadlock.empty());
      CAPTURE(describe(s));
      CAPTURE(micro_batches);
      // One stage is a sum. Between stages the closed form takes every micro-batch to last as long as
      // the later ones, though the first writes gradients that the others add to.
      const double tolerance = s.pp == 1 ? 1e-9 : 0.01;
      CHECK(closed.time.step.value == doctest::Approx(simulated.step.value).epsilon(tolerance));
      ++compared;
    }
  }
  CHECK(compared > 50);
}

TEST_CASE("the closed form's peak memory is the program's live peak within its scratch buffers") {
  for (DType precision : {DType::fp32, DType::fp16, DType::fp8_e4m3})
  for (const Strategy& s : strategy_grid()) {
    if (precision == DType::fp8_e4m3 && s.sp) continue;
    Plan plan = tiny_plan(s, 4);
    plan.workload.precision = precision;
    CAPTURE(name_of(precision));
    plan.model.hidden_size = 256, plan.model.intermediate_size = 768, plan.model.head_dim = 32;
    plan.workload.seq = 256;
    const auto closed = std::get<Estimate>(estimate(plan.model, plan.cluster, plan.workload, plan.strategy));
    const Lowered built = build(plan);
    for (std::size_t i = 0; i < built.layouts.size(); ++i) {
      CAPTURE(describe(s));
      CAPTURE(i);
      const double predicted = static_cast<double>((closed.memory_per_stage[i].peak - closed.memory_per_stage[i].reserve).value);
      const double live = static_cast<double>(built.layouts[i].live_peak.value);
      // Norms' scratch, statistics and alignment are left out of the closed form: some percent here,
      // where activations are small, and per mille in a model of use.
      CHECK(predicted == doctest::Approx(live).epsilon(0.06));
    }
  }
}

}  // namespace
}  // namespace llmplan
