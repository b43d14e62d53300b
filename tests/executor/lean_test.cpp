// AdamW without fp32 copies: weights and moments in bf16, rounded stochastically.
#include <doctest/doctest.h>

#include <cmath>
#include <map>

#include "executor/bf16.h"
#include "executor/philox.h"
#include "executor/shard.h"
#include "planner/simulate.h"
#include "tests/executor/kernel_fixture.h"
#include "tests/executor/tiny_plan.h"

namespace llmplan {
namespace {

using test::i64;

TEST_CASE("Philox gives the known answers of its authors") {
  // Salmon et al., Random123, kat_vectors: philox4x32, 10 rounds.
  const auto same = [](Random4 got, Random4 want) {
    for (int i = 0; i < 4; ++i) CHECK(got.at[i] == want.at[i]);
  };
  same(philox({{0, 0, 0, 0}}, 0, 0), {{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}});
  same(philox({{~0u, ~0u, ~0u, ~0u}}, ~0u, ~0u), {{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}});
  same(philox({{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}}, 0xa4093822, 0x299f31d0),
       {{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}});
}

TEST_CASE("Stochastic rounding is right on average, and never leaves the two neighbours") {
  for (float x : {1.0f, 1.001f, 1.0039f, -3.14159f, 1e-20f, 7.77e15f, 1e-40f, 0.0f}) {
    const float below = from_bf16(static_cast<std::uint16_t>(std::bit_cast<std::uint32_t>(x) >> 16));  // towards zero
    const float above = from_bf16(static_cast<std::uint16_t>((std::bit_cast<std::uint32_t>(x) >> 16) + 1));
    const int draws = 20000;
    double sum = 0;
    int up = 0;
    for (int i = 0; i < draws; ++i) {
      const float y = from_bf16(stochastic_bf16(x, philox({{static_cast<std::uint32_t>(i), 0, 0, 0}}, 1, 2).at[0]));
      CHECK_UNARY(y == below || y == above);
      sum += y;
      up += y == above;
    }
    CAPTURE(x);
    const double p = (static_cast<double>(x) - below) / (static_cast<double>(above) - below);
    // Five standard deviations of a binomial distribution: one failure in two million.
    CHECK(std::abs(up - p * draws) <= 5 * std::sqrt(draws * p * (1 - p)));
    CHECK((x != below || up == 0));  // what bf16 holds stays as it is
  }
  CHECK(std::isnan(from_bf16(stochastic_bf16(NAN, 0xffff))));
  CHECK(std::isinf(from_bf16(stochastic_bf16(INFINITY, 0xffff))));
}

// Updates of 1/100 of the spacing of bf16: rounded to nearest they vanish, rounded stochastically they add up.
TEST_CASE("Weights follow updates that are smaller than their own spacing") {
  const i64 n = 4096;
  test::Caller call;
  Param p;
  p.name = "w", p.full_shape = p.shape = {n}, p.decay = false;
  const std::vector<Param> params{p};
  Optimizer optimizer;
  optimizer.clip = 0;
  call.context.params = &params, call.context.optimizer = &optimizer;
  std::vector<std::uint16_t> w(n, to_bf16(1.0f)), m(n), v(n);
  const test::Floats gradient(n, 1.0f);
  const std::vector<double> stats{1, 1, 1};
  const double lr = std::ldexp(0.01, -8);  // bf16's spacing below 1 is 2^-8
  for (std::int64_t step = 1; step <= 200; ++step) {
    call.context.step = {step, lr};
    call(AdamW{n, 1, 1, DType::bf16, false, true, 5}, {test::in(gradient), test::in(stats)}, {test::out(w), test::out(m), test::out(v)});
  }
  double mean = 0, first = 0, second = 0;
  for (i64 i = 0; i < n; ++i) mean += from_bf16(w[i]), first += from_bf16(m[i]), second += from_bf16(v[i]);
  // Adam moves by lr per step while the gradient stays the same: 200 of them make two spacings.
  CHECK(std::abs((1 - mean / n) / (200 * lr) - 1) < 0.02);
  CHECK(std::abs(first / n - 1) < 0.01);
  CHECK(std::abs(second / n - 1) < 0.01);
}

// What one rank computes for a tensor, ranks compute for their parts of it, bit for bit.
TEST_CASE("The random bits are those of the place in the whole tensor, however tp and ZeRO split it") {
  const i64 rows = 12, columns = 20, n = rows * columns;
  Optimizer optimizer;
  const auto update = [&](const Param& p, int tp, const std::vector<float>& gradient, std::vector<std::uint16_t> w, i64 first, i64 count) {
    test::Caller call;
    const std::vector<Param> params{p};
    const i64 shards = count < p.elements() ? p.elements() / count : 1;
    call.context.params = &params, call.context.optimizer = &optimizer;
    call.context.where.tp = tp, call.context.where.dp = static_cast<int>(first / count);
    call.context.step = {3, 1e-2};
    std::vector<std::uint16_t> m(static_cast<std::size_t>(count), to_bf16(0.1f)), v(static_cast<std::size_t>(count), to_bf16(0.2f));
    const std::vector<double> stats{4, 1, 1};
    call(AdamW{count, shards, 1, DType::bf16, false, true, 99}, {test::in(gradient), test::in(stats)}, {test::out(w), test::out(m), test::out(v)});
    return w;
  };
  std::vector<float> gradient = test::random_floats(n, 1);
  std::vector<std::uint16_t> weights(static_cast<std::size_t>(n));
  for (i64 i = 0; i < n; ++i) weights[i] = to_bf16(test::random_floats(n, 2)[i]);
  Param whole;
  whole.name = "tensor", whole.full_shape = whole.shape = {rows, columns};
  const std::vector<std::uint16_t> expected = update(whole, 0, gradient, weights, 0, n);
  CHECK(expected != weights);
  for (int dim : {0, 1})
    for (int tp : {0, 1, 2, 3}) {
      Param part = whole;
      part.tp_dim = dim;
      part.shape[dim] /= 4;
      std::vector<float> g(static_cast<std::size_t>(n / 4));
      std::vector<std::uint16_t> w(g.size()), want(g.size());
      for_each_run(part, tp, [&](i64 local, i64 global, i64 count) {
        for (i64 i = 0; i < count; ++i) g[local + i] = gradient[global + i], w[local + i] = weights[global + i], want[local + i] = expected[global + i];
      });
      CHECK(update(part, tp, g, w, 0, n / 4) == want);
    }
  for (int dp : {0, 1, 2}) {  // a ZeRO slice: its third of the elements, the rest untouched
    const std::vector<std::uint16_t> got = update(whole, 0, gradient, weights, dp * n / 3, n / 3);
    for (i64 i = 0; i < n; ++i) CHECK(got[i] == (i / (n / 3) == dp ? expected[i] : weights[i]));
  }
}

Plan lean_plan(const Strategy& s) {
  Plan p = tiny_plan(s);
  p.workload.precision = DType::bf16;
  p.workload.optimizer.kind = OptimizerKind::adamw_lean;
  return p;
}

TEST_CASE("Lean training takes 10 bytes per parameter for weights, gradients and moments, all of them predicted") {
  for (i64 dp : {1, 2})
    for (int zero : {0, 1}) {
      if (zero && dp == 1) continue;
      Strategy s;
      s.dp = dp, s.zero = zero, s.grad_bucket = zero;
      Plan plan = lean_plan(s);
      predict(plan);
      Ranks ranks(plan);
      CHECK(ranks.allocated_arena(0) == plan.prediction.arena);
      const Program& p = ranks.programs().programs[0];
      const i64 n = p.buffers[p.gradients].size.value / 4;
      CHECK(p.master == -1);
      CHECK(p.buffers[p.weights].size.value == 2 * n);
      CHECK(p.buffers[p.moment1].size.value + p.buffers[p.moment2].size.value == 4 * n / (zero ? dp : 1));
      const auto estimated = std::get<Estimate>(estimate(plan.model, plan.cluster, plan.workload, plan.strategy));
      CHECK(estimated.memory.optimizer.value == 4 * n / (zero ? dp : 1));
    }
}

TEST_CASE("ZeRO-1 and plain data parallelism train lean weights to the same bits, and recomputation too") {
  std::map<std::string, std::vector<float>> expected;
  for (int variant = 0; variant < 3; ++variant) {
    Strategy s;
    s.dp = 2, s.micro_batch = 2, s.zero = variant == 1;
    if (variant == 2) s.recompute = Recompute::full;
    Ranks ranks(lean_plan(s));
    ranks.init(9);
    for (std::int64_t step = 1; step <= 5; ++step) ranks.step({step, 3e-3}, tiny_source(step));
    CHECK(ranks.first_difference() == "");
    for (auto& t : ranks.tensors()) {
      const auto weights = ranks.read(State::weights, t.name);
      INFO(t.name, " variant ", variant);
      if (variant == 0) expected[t.name] = weights;
      else CHECK(weights == expected[t.name]);
    }
  }
}

TEST_CASE("Lean training learns what training with a master copy learns") {
  std::map<bool, double> last;
  for (bool lean : {false, true}) {
    Strategy s;
    s.micro_batch = 4;
    Plan plan = lean_plan(s);
    if (!lean) plan.workload.optimizer.kind = OptimizerKind::adamw;
    Ranks ranks(plan);
    ranks.init(3);
    for (std::int64_t step = 1; step <= 30; ++step) last[lean] = ranks.step({step, 3e-3}, tiny_source(step)).loss;
  }
  CHECK(std::abs(last[true] / last[false] - 1) < 0.02);
}

}  // namespace
}  // namespace llmplan
