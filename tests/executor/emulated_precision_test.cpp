// Whole programs in other precisions, and of packed documents, on an emulated card: the CPU's results, whose kernels and
// interpreter share no code with what issues and computes them here.
#include <doctest/doctest.h>

#include <cmath>

#include "tests/executor/emulated_device.h"
#include "tests/executor/gpu_programs.h"

using namespace llmplan;
using namespace llmplan::gpu_programs;
using cuda::test::EmulatedMachine;

namespace {

SampleSource source(const Plan& plan, std::int64_t step) {
  const bool documents = plan.workload.documents;
  return [=](std::int64_t i, std::span<std::int32_t> ids, std::span<std::int32_t> targets) {
    tiny_samples(step, 131, i, ids, targets);
    for (std::size_t end : {0, 4, 5, 10}) if (documents) targets[end + static_cast<std::size_t>(i % 3)] = kDocumentEnd;
  };
}

Trajectory run(const Plan& plan) {
  Ranks ranks(plan);
  ranks.init(plan.workload.seed);
  Trajectory t;
  for (std::int64_t step = 1; step <= 2; ++step) {
    const StepResult r = ranks.step({step, 1e-3}, source(plan, step));
    t.losses.push_back(r.loss), t.norms.push_back(r.grad_norm);
    if (step == 1)
      for (auto& tensor : ranks.tensors()) t.gradients[tensor.name] = ranks.read(State::gradients, tensor.name);
  }
  CHECK(ranks.first_difference() == "");
  for (auto& tensor : ranks.tensors()) t.weights[tensor.name] = ranks.read(State::weights, tensor.name);
  return t;
}

Plan plan_in(DType precision, const Strategy& s) {
  Plan p = gpu_plan(s);
  p.workload.seq = 16;
  p.model.head_dim = 16;  // rotations in 16 bits take vectors of 8 pairs
  p.model.intermediate_size = 64;  // fp8 takes multiples of 16, also of half of it
  p.workload.precision = precision;
  return p;
}

// Both sides round at the same places, but sum in other orders, so that a number falls to the other side of a rounding
// now and then; `unit` is half of the last place of the narrowest type that a gradient passes.
void compare(Plan plan, double unit) {
  INFO(name_of(plan.workload.precision), " ", describe(plan.strategy));
  const Trajectory gpu = [&] {
    EmulatedMachine machine;
    return run(plan);
  }();
  plan.cluster = local_ranks();
  const Trajectory cpu = run(plan);
  for (std::size_t k = 0; k < 2; ++k) CHECK(std::abs(gpu.losses[k] / cpu.losses[k] - 1) < unit);
  CHECK(std::abs(gpu.norms[0] / cpu.norms[0] - 1) < 2 * unit);
  for (auto& [name, gradient] : cpu.gradients) {
    INFO(name);
    CHECK(distance(gpu.gradients.at(name), gradient) < 4 * unit);
    // Adam's first updates have the gradient's sign, so small gradients' rounding shows whole.
    CHECK(distance(gpu.weights.at(name), cpu.weights.at(name)) < 16 * unit);
  }
}

std::vector<Strategy> splits() {
  Strategy tp, dp;
  tp.tp = 2, tp.micro_batch = 2;
  dp.dp = 2, dp.zero = 1, dp.grad_bucket = 1, dp.recompute = Recompute::full;
  return {{}, tp, dp};
}

}  // namespace

TEST_SUITE("a GPU emulated on the host") {
  TEST_CASE("fp16, lean, fp8 and packed documents compute what the CPU computes") {
    const std::vector<Strategy> split = splits();
    compare(plan_in(DType::fp16, split[2]), std::ldexp(1, -11));
    Plan lean = plan_in(DType::bf16, split[2]);
    lean.workload.optimizer.kind = OptimizerKind::adamw_lean;
    compare(lean, std::ldexp(1, -8));
    for (std::size_t i : {0, 1}) {
      compare(plan_in(DType::fp8_e4m3, split[i]), std::ldexp(1, -6));  // one flip in e5m2 moves a gradient by 2^-3
      Plan packed = plan_in(DType::fp32, split[i]);
      packed.workload.documents = true;
      compare(packed, 2e-6);
    }
    Strategy sp = split[1];
    sp.sp = true;
    compare(plan_in(DType::fp8_e4m3, sp), std::ldexp(1, -6));
  }

  TEST_CASE("a step whose gradients overflow fp16 changes nothing, and halves the scale, on every rank that shares the card") {
    for (const Strategy& s : splits()) {
      EmulatedMachine machine;
      Plan plan = plan_in(DType::fp16, s);
      plan.workload.optimizer.loss_scale = std::ldexp(1, 40);
      Ranks ranks(plan);
      ranks.init(1);
      const std::vector<float> before = ranks.read(State::weights, "model.norm.weight");
      CHECK(ranks.step({1, 1e-2}, source(plan, 1)).skipped);
      CHECK(ranks.read(State::weights, "model.norm.weight") == before);
      CHECK(ranks.loss_scaling().scale == std::ldexp(1, 39));
      LossScaling small = ranks.loss_scaling();
      small.scale = 1024;
      ranks.set_loss_scaling(small);
      CHECK_FALSE(ranks.step({2, 1e-2}, source(plan, 1)).skipped);
      CHECK(ranks.read(State::weights, "model.norm.weight") != before);
      CHECK(ranks.first_difference() == "");
    }
  }
}
