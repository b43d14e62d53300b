// Training in 16 bits: what is stored has the type that the plan says, sums and updates are fp32, and fp16 scales its loss.
#include <doctest/doctest.h>

#include <cmath>
#include <map>

#include "executor/checkpoint.h"
#include "executor/loss_scale.h"
#include "planner/simulate.h"
#include "tests/executor/scratch.h"
#include "tests/executor/tiny_plan.h"

namespace llmplan {
namespace {

using Tensors = std::map<std::string, std::vector<float>>;

Tensors all(const Ranks& ranks, State state) {
  Tensors out;
  for (auto& t : ranks.tensors()) out[t.name] = ranks.read(state, t.name);
  return out;
}

Plan plan_in(DType precision, const Strategy& strategy, bool tied = false) {
  Plan p = tiny_plan(strategy, tied);
  p.workload.precision = precision;
  return p;
}

std::vector<Strategy> few_strategies() {
  Strategy one, dp, tp, pp, all, recompute;
  one.micro_batch = 4;
  dp.dp = 2, dp.micro_batch = 2, dp.zero = 1, dp.grad_bucket = 1;
  tp.tp = 2, tp.sp = true, tp.micro_batch = 2;
  pp.pp = 4;
  all.tp = all.pp = all.dp = 2, all.sp = true, all.zero = 1, all.grad_bucket = 1;
  recompute.micro_batch = 4, recompute.recompute = Recompute::full;
  return {one, dp, tp, pp, all, recompute};
}

TEST_CASE("bf16 and fp16 give fp32's loss and gradients up to their own rounding, under every kind of split") {
  Ranks exact(plan_in(DType::fp32, few_strategies()[0]));
  exact.init(7);
  const double loss = exact.step({1, 1e-3}, tiny_source(1)).loss;
  const Tensors gradients = all(exact, State::gradients);
  for (DType t : {DType::bf16, DType::fp16})
    for (const Strategy& s : few_strategies()) {
      Plan plan = plan_in(t, s);
      INFO(name_of(t), " ", describe(s));
      Ranks ranks(plan);
      ranks.init(7);
      const StepResult r = ranks.step({1, 1e-3}, tiny_source(1));
      // 9 and 12 bits: half a unit in the last place of each of the some ten roundings on the way to a gradient.
      const double unit = t == DType::bf16 ? std::ldexp(1, -9) : std::ldexp(1, -12);
      CHECK(std::abs(r.loss / loss - 1) < unit / 2);
      const double scale = ranks.loss_scaling().inverse;
      for (auto& [name, gradient] : gradients) {
        std::vector<float> got = ranks.read(State::gradients, name);
        for (float& g : got) g *= static_cast<float>(scale);
        INFO(name);
        CHECK(distance(got, gradient) < 10 * unit);
        CHECK(distance(got, gradient) > 0);  // something was rounded
      }
      CHECK(ranks.first_difference() == "");
    }
}

TEST_CASE("16-bit weights are the rounded master, and what the arena was predicted to be is allocated") {
  for (DType t : {DType::bf16, DType::fp16})
    for (const Strategy& s : few_strategies()) {
      Plan plan = plan_in(t, s);
      predict(plan);
      INFO(name_of(t), " ", describe(s));
      Ranks ranks(plan);
      Bytes most{};
      for (int r = 0; r < ranks.size(); ++r) most = std::max(most, ranks.allocated_arena(r));
      CHECK(most == plan.prediction.arena);
      const Program& p = ranks.programs().programs[0];
      CHECK(p.buffers[static_cast<std::size_t>(p.weights)].dtype == t);
      CHECK(p.buffers[static_cast<std::size_t>(p.master)].dtype == DType::fp32);
      CHECK((p.loss_scaling >= 0) == (t == DType::fp16));
    }
}

TEST_CASE("Recomputation and a second run change no bit in 16 bits") {
  for (DType t : {DType::bf16, DType::fp16}) {
    Strategy again = few_strategies()[4];
    again.recompute = Recompute::full;
    Tensors first;
    for (const Strategy& s : {few_strategies()[4], few_strategies()[4], again}) {
      Ranks ranks(plan_in(t, s));
      ranks.init(2);
      for (std::int64_t step = 1; step <= 3; ++step) ranks.step({step, 3e-3}, tiny_source(step));
      if (first.empty()) first = all(ranks, State::weights);
      CHECK(all(ranks, State::weights) == first);
    }
  }
}

TEST_CASE("Training in bf16 and fp16 learns what fp32 learns") {
  std::map<DType, double> last;
  for (DType t : {DType::fp32, DType::bf16, DType::fp16}) {
    Ranks ranks(plan_in(t, few_strategies()[0]));
    ranks.init(3);
    for (std::int64_t step = 1; step <= 30; ++step) last[t] = ranks.step({step, 3e-3}, tiny_source(step)).loss;
  }
  CHECK(last[DType::fp32] < 4.2);
  CHECK(std::abs(last[DType::bf16] / last[DType::fp32] - 1) < 0.01);
  CHECK(std::abs(last[DType::fp16] / last[DType::fp32] - 1) < 0.002);
}

TEST_CASE("Gradients that overflow fp16 skip the step on every rank: nothing but the scale changes, which halves") {
  double first_good = 0;
  for (const Strategy& s : few_strategies()) {
    INFO(describe(s));
    Plan plan = plan_in(DType::fp16, s);
    plan.workload.optimizer.loss_scale = std::ldexp(1, 40);
    Ranks ranks(plan);
    ranks.init(11);
    ranks.write(State::moment1, "model.norm.weight", 0, std::vector<float>(48, 0.5f));
    const Tensors before[] = {all(ranks, State::weights), all(ranks, State::moment1), all(ranks, State::moment2)};
    StepResult r;
    int skips = 0;
    for (; (r = ranks.step({skips + 1, 1e-3}, tiny_source(1))).skipped; ++skips) {
      REQUIRE(skips < 40);
      CHECK_FALSE(std::isfinite(r.grad_norm));
      CHECK(std::isfinite(r.loss));  // the loss itself carries no scale
      const LossScaling now = ranks.loss_scaling();
      CHECK(now.scale == std::ldexp(1, 39 - skips));
      CHECK(now.skipped == skips + 1);
      CHECK(now.taken == 0);
      if (skips % 8 != 0) continue;
      CHECK(all(ranks, State::weights) == before[0]);
      CHECK(all(ranks, State::moment1) == before[1]);
      CHECK(all(ranks, State::moment2) == before[2]);
      CHECK(ranks.first_difference() == "");
    }
    CHECK(skips > 3);
    CHECK(ranks.loss_scaling().taken == 1);
    CHECK(all(ranks, State::weights) != before[0]);
    // Roundings differ between strategies, but not by as much as a factor of two in the scale, but for the tp
    // ranks' partial sums, which are smaller than their sum or larger.
    if (first_good == 0) first_good = ranks.loss_scaling().scale;
    CHECK(std::abs(std::log2(ranks.loss_scaling().scale / first_good)) <= 2);
  }
}

TEST_CASE("Every rank takes the same decision, and one rank's overflow is everybody's") {
  for (const Strategy& s : few_strategies()) {
    INFO(describe(s));
    Plan plan = plan_in(DType::fp16, s);
    Ranks ranks(plan);
    ranks.init(11);
    ranks.step({1, 1e-3}, tiny_source(1));
    // An infinite weight in one place, held by one tp rank of one stage, makes gradients of all infinite or NaN
    // and leaves most ranks' own parts finite for a while; the world's sum tells everyone.
    const Tensors before = all(ranks, State::moment1);
    std::vector<float> w = ranks.read(State::weights, "model.layers.3.mlp.down_proj.weight");
    w[5] = 3e38f;
    ranks.write(State::weights, "model.layers.3.mlp.down_proj.weight", 0, w);
    CHECK(ranks.step({2, 1e-3}, tiny_source(2)).skipped);
    CHECK(all(ranks, State::moment1) == before);
    CHECK(ranks.loss_scaling().scale == 32768);
  }
}

TEST_CASE("After skipped steps training goes on bit for bit as if it had started with the smaller scale") {
  for (const Strategy& s : {few_strategies()[0], few_strategies()[4]}) {
    Plan plan = plan_in(DType::fp16, s);
    plan.workload.optimizer.loss_scale = std::ldexp(1, 40);
    Ranks late(plan);
    late.init(5);
    std::int64_t attempts = 1;
    while (late.step({attempts, 1e-3}, tiny_source(1)).skipped) ++attempts;
    plan.workload.optimizer.loss_scale = late.loss_scaling().scale;
    Ranks early(plan);
    early.init(5);
    CHECK_FALSE(early.step({1, 1e-3}, tiny_source(1)).skipped);
    for (std::int64_t step = 2; step <= 4; ++step) {
      const StepResult a = late.step({attempts + step - 1, 2e-3}, tiny_source(step)), b = early.step({step, 2e-3}, tiny_source(step));
      CHECK(a.loss == b.loss);
      CHECK(a.grad_norm == b.grad_norm);
    }
    CHECK(all(late, State::weights) == all(early, State::weights));
    CHECK(all(late, State::moment2) == all(early, State::moment2));
  }
}

TEST_CASE("The scale doubles after a window of good steps, which a skipped one starts anew, and is never below 1") {
  double stats[3] = {4, 1, 1};
  LossScaling s{.scale = 8};
  const auto good = [&] { stats[0] = 4 * s.scale * s.scale, decide_loss_scale(3, 0.9, 0.99, stats, s); };
  const auto bad = [&](double sum) { stats[0] = sum, decide_loss_scale(3, 0.9, 0.99, stats, s); };
  good(), good();
  CHECK(s.scale == 8);
  CHECK(stats[0] == 4);  // of the gradients without the scale
  good();
  CHECK(s.scale == 16);
  CHECK(s.inverse == 1.0 / 8);  // this step's gradients had the old one
  CHECK(s.taken == 3);
  CHECK(s.correction1 == doctest::Approx(1 - 0.9 * 0.9 * 0.9));
  CHECK(s.correction2 == doctest::Approx(1 - 0.99 * 0.99 * 0.99));
  good(), good(), bad(INFINITY);
  CHECK(s.scale == 8);
  CHECK(s.apply == 0);
  CHECK(s.taken == 5);
  good(), good();
  CHECK(s.scale == 8);
  CHECK(s.apply == 1);
  for (int i = 0; i < 9; ++i) bad(NAN);
  CHECK(s.scale == 1);
  CHECK(s.skipped == 10);
}

TEST_CASE("A checkpoint holds the loss scale: a resumed run is the same bits") {
  Scratch dir;
  Plan plan = plan_in(DType::fp16, few_strategies()[0]);
  plan.workload.optimizer.loss_scale = std::ldexp(1, 40);
  plan.workload.optimizer.loss_scale_window = 4;
  Ranks through(plan);
  through.init(5);
  std::int64_t step = 1;
  const auto next = [&](Ranks& ranks, std::int64_t at) { return ranks.step({at, 1e-3}, tiny_source(at)); };
  while (next(through, step).skipped) ++step;
  next(through, ++step), next(through, ++step);
  save_checkpoint(dir.path.string(), through, {step, step * 8}, {});
  Ranks resumed(plan);
  CHECK(load_checkpoint(*latest_checkpoint(dir.path.string()), resumed, {}).step == step);
  const LossScaling a = through.loss_scaling(), b = resumed.loss_scaling();
  CHECK(a.scale == b.scale);
  CHECK(a.good_in_a_row == b.good_in_a_row);
  CHECK(a.skipped > 3);
  CHECK(a.taken == b.taken);
  CHECK(a.skipped == b.skipped);
  for (int i = 1; i <= 3; ++i) {
    const StepResult x = next(through, step + i), y = next(resumed, step + i);
    CHECK(x.loss == y.loss);
    CHECK(through.loss_scaling().scale == resumed.loss_scaling().scale);
  }
  CHECK(through.loss_scaling().skipped + through.loss_scaling().taken == step + 3);
  CHECK(all(through, State::weights) == all(resumed, State::weights));
  CHECK(all(through, State::moment1) == all(resumed, State::moment1));
}

}  // namespace
}  // namespace llmplan
