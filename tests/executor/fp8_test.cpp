// Linears in 8 bits: the program quantises their operands, and the CPU multiplies the rounded values.
#include <doctest/doctest.h>

#include <cmath>
#include <map>

#include "costmodel/estimate.h"
#include "executor/cpu/convert.h"
#include "executor/small_float.h"
#include "planner/simulate.h"
#include "tests/executor/kernel_fixture.h"
#include "tests/executor/tiny_plan.h"

namespace llmplan {
namespace {

using test::Floats;
using test::i64;

TEST_CASE("Quantisation uses the largest power of two that overflows nothing, and rounds each element to nearest") {
  test::Caller call;
  for (DType to : {DType::fp8_e4m3, DType::fp8_e5m2})
    for (double scale : {1.0, 1e-9, 3e7}) {
      const i64 rows = 13, columns = 37;
      const Floats x = test::random_floats(rows * columns, 4, scale);
      std::vector<std::uint8_t> q(rows * columns), t(rows * columns);
      Floats factor(1 + rows);
      call(Quantize{rows, columns, true, true, DType::fp32, to}, {test::in(x)}, {test::out(q), test::out(t), test::out(factor)});
      const float limit = to == DType::fp8_e4m3 ? 448.0f : 57344.0f;
      float largest = 0;
      for (float v : x) largest = std::max(largest, std::abs(v));
      int exponent = 0;
      CHECK(std::frexp(factor[0], &exponent) == 0.5f);  // a power of two
      CHECK(largest / factor[0] <= limit);
      CHECK(2 * largest / factor[0] > limit);
      Floats back(x.size());
      cpu::widen(to, test::in(q), back.data(), rows * columns);
      // Half of the spacing: 2^-4 and 2^-3 of the number, or of the smallest normal one.
      const double relative = to == DType::fp8_e4m3 ? std::ldexp(1, -4) : std::ldexp(1, -3);
      const double smallest = to == DType::fp8_e4m3 ? std::ldexp(1, -6) : std::ldexp(1, -14);
      for (i64 i = 0; i < rows * columns; ++i) {
        const double want = static_cast<double>(x[i]) / factor[0];
        CHECK(std::abs(static_cast<double>(back[i]) - want) <= relative * std::max(std::abs(want), smallest));
        CHECK(t[i % columns * rows + i / columns] == q[i]);
      }
    }
}

TEST_CASE("A matrix with a number that is not finite is quantised to nothing that looks finite") {
  test::Caller call;
  for (float bad : {INFINITY, -INFINITY, NAN}) {
    Floats x(64, 1.0f), factor(9);
    x[17] = bad;
    std::vector<std::uint8_t> q(64);
    call(Quantize{8, 8, true, false, DType::fp32, DType::fp8_e4m3}, {test::in(x)}, {test::out(q), test::out(factor)});
    CHECK(std::isnan(factor[0]));
  }
  Floats x(64, 0.0f), factor(9);
  std::vector<std::uint8_t> q(64, 77);
  call(Quantize{8, 8, true, false, DType::fp32, DType::fp8_e5m2}, {test::in(x)}, {test::out(q), test::out(factor)});
  CHECK(factor[0] == 1);
  CHECK(q == std::vector<std::uint8_t>(64, 0));
}

TEST_CASE("A product of quantised matrices is the product of what they stand for") {
  test::Caller call;
  const i64 m = 24, n = 40, k = 56;
  for (DType a_type : {DType::fp8_e4m3, DType::fp8_e5m2})
    for (bool accumulate : {false, true}) {
      const Floats a = test::random_floats(m * k, 1, 0.01), b = test::random_floats(n * k, 2, 300), before = test::random_floats(m * n, 3);
      std::vector<std::uint8_t> qa(m * k), qb(n * k);
      Floats fa(1 + m), fb(1 + n), c = before;
      call(Quantize{m, k, true, false, DType::fp32, a_type}, {test::in(a)}, {test::out(qa), test::out(fa)});
      call(Quantize{n, k, true, false, DType::fp32, DType::fp8_e4m3}, {test::in(b)}, {test::out(qb), test::out(fb)});
      call(Gemm{m, n, k, false, true, accumulate, a_type, DType::fp32}, {test::in(qa), test::in(qb), test::in(fa), test::in(fb)}, {test::out(c)});
      Floats wa(a.size()), wb(b.size());
      cpu::widen(a_type, test::in(qa), wa.data(), m * k);
      cpu::widen(DType::fp8_e4m3, test::in(qb), wb.data(), n * k);
      test::Doubles want(m * n), exact(m * n);
      for (i64 i = 0; i < m; ++i)
        for (i64 j = 0; j < n; ++j) {
          double sum = 0, plain = 0;
          for (i64 p = 0; p < k; ++p) {
            sum += static_cast<double>(wa[i * k + p]) * wb[j * k + p];
            plain += static_cast<double>(a[i * k + p]) * b[j * k + p];
          }
          want[i * n + j] = sum * fa[0] * fb[0] + (accumulate ? before[i * n + j] : 0.0f);
          exact[i * n + j] = plain + (accumulate ? before[i * n + j] : 0.0f);
        }
      CHECK(test::relative_norm(c, want) < 1e-6);
      // Two operands, each off by at most 2^-4 or 2^-3, on average by a third of that.
      CHECK(test::relative_norm(c, exact) < (a_type == DType::fp8_e4m3 ? 0.05 : 0.08));
      CHECK(test::relative_norm(c, exact) > 0.01);
    }
}

Plan fp8_plan(Strategy s, DType precision = DType::fp8_e4m3) {
  Plan p = tiny_plan(s);
  p.model.hidden_size = 64, p.model.num_attention_heads = 8, p.model.num_key_value_heads = 4, p.model.head_dim = 8;
  p.model.intermediate_size = 160;
  p.workload.precision = precision;
  p.workload.seq = 32;
  return p;
}
std::vector<Strategy> strategies() {
  Strategy one, dp, tp, pp, recompute;
  one.micro_batch = 4;
  dp.dp = 2, dp.zero = 1, dp.micro_batch = 2;
  tp.tp = 2, tp.micro_batch = 2;
  pp.pp = 4;
  recompute.micro_batch = 4, recompute.recompute = Recompute::full;
  Strategy sp = tp, sp_recompute = tp, all = tp;
  sp.sp = sp_recompute.sp = all.sp = true;
  sp_recompute.recompute = Recompute::full;
  all.dp = all.pp = 2, all.zero = 1, all.micro_batch = 1;
  return {one, dp, tp, pp, recompute, sp, sp_recompute, all};
}

TEST_CASE("In fp8 every layer's linears multiply 8 bits, e5m2 gradients by e4m3, and head and embedding do not") {
  for (const Strategy& s : strategies()) {
    const Plan plan = fp8_plan(s);
    for (const Program& p : lower(plan))
      for (const Instr& i : p.instrs)
        if (const auto* g = std::get_if<Gemm>(&i.op)) {
          CHECK(is_fp8(g->in) == (i.layer >= 0));
          if (i.layer < 0) continue;
          CHECK_FALSE(g->a_transposed);  // both operands with k contiguous: all that Hopper multiplies
          CHECK(g->b_transposed);
          CHECK(g->in == (i.phase == Phase::backward ? DType::fp8_e5m2 : DType::fp8_e4m3));
          CHECK(p.buffers[i.reads[0].buffer].dtype == g->in);
          CHECK(p.buffers[i.reads[1].buffer].dtype == DType::fp8_e4m3);
        }
  }
}

TEST_CASE("fp8 gradients point where bf16's do, the arena is the predicted one, and recomputation changes no bit") {
  std::map<std::string, std::vector<float>> exact;
  std::map<std::string, std::map<std::string, std::vector<float>>> kept;  // by strategy: without recomputation
  Ranks bf16(fp8_plan(strategies()[0], DType::bf16));
  bf16.init(2);
  const double loss = bf16.step({1, 1e-3}, tiny_source(1)).loss;
  for (auto& t : bf16.tensors()) exact[t.name] = bf16.read(State::gradients, t.name);
  for (const Strategy& s : strategies()) {
    INFO(describe(s));
    Plan plan = fp8_plan(s);
    predict(plan);
    Ranks ranks(plan);
    Bytes most{};
    for (int r = 0; r < ranks.size(); ++r) most = std::max(most, ranks.allocated_arena(r));
    CHECK(most == plan.prediction.arena);
    ranks.init(2);
    CHECK(std::abs(ranks.step({1, 1e-3}, tiny_source(1)).loss / loss - 1) < 2e-3);
    for (auto& t : ranks.tensors()) {
      const auto gradient = ranks.read(State::gradients, t.name);
      INFO(t.name);
      // e5m2 rounds to 2 bits behind the point: each gradient that passes a linear is off by some percent.
      CHECK(distance(gradient, exact[t.name]) < 0.15);
      Strategy without = s;
      without.recompute = Recompute::none;
      if (s == without) kept[describe(s)][t.name] = gradient;
      else CHECK(gradient == kept.at(describe(without)).at(t.name));
    }
  }
}

TEST_CASE("In fp8 sequence parallelism is no further from one rank than tensor parallelism is without it") {
  const auto gradients = [](const Strategy& s) {
    Ranks ranks(fp8_plan(s));
    ranks.init(2);
    ranks.step({1, 1e-3}, tiny_source(1));
    CHECK(ranks.first_difference().empty());
    std::vector<float> all;
    for (auto& t : ranks.tensors()) {
      const auto gradient = ranks.read(State::gradients, t.name);
      all.insert(all.end(), gradient.begin(), gradient.end());
    }
    return all;
  };
  Strategy one, tp, sp;
  one.micro_batch = tp.micro_batch = sp.micro_batch = 4;
  tp.tp = sp.tp = 2, sp.sp = true;
  const auto alone = gradients(one);
  // tp ranks round partial sums to bf16, and sp a norm's output, too: what falls to the other side of a border between
  // two codes differs by a step of e4m3 or e5m2.
  const double usual = distance(gradients(tp), alone);
  CHECK(usual < 0.05);
  CHECK(distance(gradients(sp), alone) < 1.25 * usual);
}

TEST_CASE("Under sequence parallelism every rank quantises all rows of a norm's output, with one factor") {
  Strategy s;
  s.tp = 2, s.sp = true;
  const Plan plan = fp8_plan(s);
  int found = 0;
  const auto programs = lower(plan);
  for (const Program& p : programs)
    for (std::size_t i = 0; i + 1 < p.instrs.size(); ++i) {
      const auto* gather = std::get_if<Collective>(&p.instrs[i].op);
      if (!gather || p.instrs[i].layer < 0 || gather->kind != Collective::Kind::all_gather || gather->axis != Axis::tp) continue;
      const auto* q = std::get_if<Quantize>(&p.instrs[i + 1].op);
      REQUIRE(q);
      CHECK(q->rows == 32);
      CHECK(gather->size == Bytes{q->rows * q->columns * 2});
      CHECK(p.instrs[i + 1].reads[0] == p.instrs[i].writes[0]);
      ++found;
    }
  CHECK(found == plan.micro_batches() * plan.model.num_hidden_layers * 6);  // two forward, four backward
}

TEST_CASE("Training in fp8 stays within 1 % of bf16's loss") {
  std::map<DType, double> last;
  for (DType t : {DType::bf16, DType::fp8_e4m3}) {
    Ranks ranks(fp8_plan(strategies()[0], t));
    ranks.init(3);
    for (std::int64_t step = 1; step <= 40; ++step) last[t] = ranks.step({step, 3e-3}, tiny_source(step)).loss;
  }
  CHECK(last[DType::bf16] < 4);
  CHECK(std::abs(last[DType::fp8_e4m3] / last[DType::bf16] - 1) < 0.01);
}

TEST_CASE("What fp8 cannot do is refused with a reason") {
  Plan odd = fp8_plan({});
  odd.workload.seq = 24;
  CHECK(why_not_lowerable(odd).reason.find("16") != std::string::npos);
  CHECK(why_not_lowerable(fp8_plan({})).constraint.empty());
}

}  // namespace
}  // namespace llmplan
