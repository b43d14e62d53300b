// Gradients are reduced in buckets, beside the backward passes of the layers before them.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>

#include <nlohmann/json.hpp>

#include "costmodel/block.h"
#include "costmodel/profiles/profiles.h"
#include "planner/build.h"
#include "planner/lower.h"
#include "planner/overlap.h"
#include "planner/simulate.h"
#include "planner/trace.h"
#include "tests/planner/plans.h"

using namespace llmplan;

namespace {

bool reduces(const Instr& i) {
  const auto* c = std::get_if<Collective>(&i.op);
  return c && c->axis == Axis::dp && c->kind != Collective::Kind::all_gather;
}

// llama-3.1-8b on 8 nodes of 8 GPUs whose network is `speed` times as fast as it is.
Plan plan_8b(int zero, std::int64_t bucket, double speed = 1) {
  Plan p;
  p.model = read_model("llama-3.1-8b");
  p.cluster = read_cluster("8x8xh100-80g-sxm");
  for (Link* link : {&p.cluster.intra, &p.cluster.inter}) {
    link->bandwidth.value *= speed;
    if (std::isinf(speed)) link->latency = link->setup = {};
  }
  p.cluster.tiers.clear();
  p.workload.seq = 4096;
  p.workload.global_batch = 128;
  p.strategy.dp = 64, p.strategy.zero = zero;
  p.strategy.grad_bucket = bucket;
  return p;
}
constexpr std::int64_t kOne = std::int64_t{1} << 40;  // more than any model has: one bucket

struct Reduced { double step, sum, exposed, backward; };

// Of the first stage: seconds of its reductions, how much of them lies behind the last backward instruction, and how long the last
// micro-batch's backward pass is.
Reduced reduced(const Plan& plan) {
  const Lowered l = build(plan);
  const Simulation run = simulate(l.programs, *time_model(plan));
  REQUIRE(run.deadlock.empty());
  Reduced r{run.step.value, 0, 0, 0};
  double computed = 0, ended = 0;
  const Program& p = l.programs[0];
  for (std::size_t i = 0; i < p.instrs.size(); ++i) {
    const Span& at = run.stages[0][i];
    if (p.instrs[i].phase == Phase::backward) computed = std::max(computed, at.finish.value);
    if (p.instrs[i].phase == Phase::backward && p.instrs[i].micro_batch + 1 == plan.micro_batches())
      r.backward += (at.finish - at.start).value;
    if (!reduces(p.instrs[i])) continue;
    r.sum += (at.finish - at.start).value;
    ended = std::max(ended, at.finish.value);
  }
  r.exposed = std::max(0.0, ended - computed);
  return r;
}

}  // namespace

TEST_CASE("a bucket is as many whole layers as hold the elements that are asked for, and no fewer") {
  Strategy s;
  s.dp = 2;
  const std::int64_t layer = 96 * (192 + 96 + 3 * 256), table = 320 * 96, norms = 96;
  const auto sizes = [&](std::int64_t bucket, bool tied = false) {
    s.grad_bucket = bucket;
    Plan plan = tiny_plan(s, 1, 5);
    plan.model.tie_word_embeddings = tied;
    std::vector<std::int64_t> n;
    const std::vector<Program> programs = lower(plan);
    for (const Bucket& b : programs[0].buckets) n.push_back(b.elements);
    return n;
  };
  using Sizes = std::vector<std::int64_t>;
  const std::int64_t first = table + 11 * norms;  // embedding, all norms
  CHECK(sizes(1) == Sizes{first, layer, layer, layer, layer, layer, table});
  CHECK(sizes(layer) == Sizes{first, layer, layer, layer, layer, layer + table});
  CHECK(sizes(layer + 1) == Sizes{first, 2 * layer, 2 * layer, layer + table});
  CHECK(sizes(2 * layer, true) == Sizes{first + layer, 2 * layer, 2 * layer});
  CHECK(sizes(1 << 30) == Sizes{first + 5 * layer + table});
  CHECK(sizes(0) == sizes(40'000'000));
  s.pp = 5;  // a stage in the middle has one layer and its norms
  CHECK(sizes(1) == Sizes{first - 9 * norms, layer}) ;
  for (const Program& p : lower(tiny_plan(s, 1, 5)))
    if (p.stage > 0 && p.stage < 4) CHECK(p.buckets.size() == 1);
}

TEST_CASE("each bucket's collective comes right behind the last write to it, and covers exactly its elements") {
  for (const Strategy& s : strategy_grid()) {
    if (s.dp == 1) continue;
    for (const bool tied : {false, true}) {
      CAPTURE(describe(s));
      Plan plan = tiny_plan(s, 3);
      plan.model.tie_word_embeddings = tied;
      for (const Program& p : lower(plan)) {
        std::vector<Ref> found;
        for (std::size_t i = 0; i < p.instrs.size(); ++i) {
          if (!reduces(p.instrs[i])) continue;
          const Ref r = p.instrs[i].writes[0];
          found.push_back(r);
          std::size_t last = 0;
          for (std::size_t k = 0; k < p.instrs.size(); ++k)
            for (const Ref& w : p.instrs[k].writes)
              if (k != i && w.buffer == r.buffer && w.offset < r.offset + r.size && r.offset < w.offset + w.size) last = k;
          CHECK(last < i);
          // Between them lie the rest of that layer's backward pass, a send, and a sum of norms at most.
          for (std::size_t k = last + 1; k < i; ++k)
            CHECK((p.instrs[k].layer == p.instrs[last].layer || p.instrs[k].layer < 0));
        }
        REQUIRE(found.size() == p.buckets.size());
        for (std::size_t k = 0; k < found.size(); ++k) {  // from the end of the flat buffers
          const Bucket& b = p.buckets[p.buckets.size() - 1 - k];
          CHECK(found[k] == Ref{p.gradients, {4 * b.begin}, {4 * b.elements}});
        }
      }
    }
  }
}

TEST_CASE("on a slow network buckets hide as much of the reduction as there is backward pass behind them") {
  for (const int zero : {0, 1}) {
    CAPTURE(zero);
    const Reduced one = reduced(plan_8b(zero, kOne, 0.1)), buckets = reduced(plan_8b(zero, 0, 0.1));
    CHECK(one.exposed == doctest::Approx(one.sum).epsilon(1e-9));  // nothing can begin before the end
    CHECK(buckets.sum >= one.sum);                                 // more messages, none of them cheaper:
    CHECK(buckets.sum < 1.15 * one.sum);                           // a link is less efficient with smaller ones
    // Reducing takes longer than computing here, and begins with the first gradients, the head's, that the forward pass leaves.
    CHECK(one.sum > 2 * one.backward);
    const double hidden = buckets.sum - buckets.exposed;
    CHECK(hidden > 0.93 * one.backward);
    CHECK(hidden < one.backward);
  }
}

TEST_CASE("where reducing is faster than computing, what stays exposed is the first layer and the embedding, final last") {
  const Plan plan = plan_8b(0, 0, 3);
  const Reduced one = reduced(plan_8b(0, kOne, 3)), buckets = reduced(plan);
  CHECK(one.sum < 0.5 * one.backward);
  const Shapes s = shapes_of(plan.model, plan.cluster, plan.workload, plan.strategy);
  const block::Buckets list = block::buckets_of(s, {0, 1, 32});
  CHECK(list.last() == 128256 * 4096 + 65 * 4096);
  const auto seconds = [&](std::int64_t elements) {
    return transfer_time(block::bucket_sum(s, elements), plan.cluster, plan.strategy).value;
  };
  CHECK(buckets.exposed > seconds(list.last()));
  CHECK(buckets.exposed < seconds(list.last()) + seconds(list.runs[1].elements));
  CHECK(buckets.exposed < 0.1 * one.exposed);
  CHECK(buckets.step < one.step);
}

TEST_CASE("with a network that takes no time, buckets change nothing but the starts of a few more kernels") {
  const double fast = std::numeric_limits<double>::infinity();
  const Reduced one = reduced(plan_8b(0, kOne, fast)), buckets = reduced(plan_8b(0, 0, fast));
  CHECK(one.sum == 0);
  CHECK(buckets.sum == 0);
  CHECK(buckets.step >= one.step * (1 - 1e-12));
  CHECK(buckets.step < one.step * 1.001);  // statistics and update of 34 buckets instead of one: 67 more kernels
}

TEST_CASE("under ZeRO weights are gathered while the first layers compute, and only the table and the norms are waited for") {
  for (const bool one : {false, true}) {
    const Plan plan = plan_8b(1, one ? kOne : 0);
    const Lowered l = build(plan);
    const Simulation run = simulate(l.programs, *time_model(plan));
    const Program& p = l.programs[0];
    double gathered = 0, begun = std::numeric_limits<double>::infinity(), first = -1, last = 0;
    for (std::size_t i = 0; i < p.instrs.size(); ++i) {
      const Span& at = run.stages[0][i];
      const auto* c = std::get_if<Collective>(&p.instrs[i].op);
      if (c && c->kind == Collective::Kind::all_gather) {
        gathered += (at.finish - at.start).value;
        if (first < 0) first = at.finish.value;
        last = std::max(last, at.finish.value);
        CHECK(c->axis == Axis::dp);
        CHECK(at.start.value <= gathered);  // one after another from the start of the step
      }
      if (std::holds_alternative<Embedding>(p.instrs[i].op)) begun = std::min(begun, at.start.value);
    }
    CHECK(begun == doctest::Approx(first).epsilon(1e-12));
    if (one) CHECK(begun == doctest::Approx(gathered).epsilon(1e-12));
    else CHECK(begun < 0.1 * gathered);
    CHECK(last == doctest::Approx(gathered).epsilon(1e-12));
  }
  Plan none = plan_8b(0, 0);
  const std::vector<Program> without = lower(none);
  CHECK_FALSE(std::holds_alternative<Collective>(without[0].instrs.front().op));
}

TEST_CASE("training and evaluation begin by gathering what other ranks updated, each bucket once, and nothing reads it before") {
  Strategy s;
  s.dp = 2, s.pp = 2, s.zero = 1, s.grad_bucket = 1;
  for (const Purpose purpose : {Purpose::train, Purpose::evaluate})
    for (const Program& p : lower(tiny_plan(s, 2), purpose)) {
      for (std::size_t k = 0; k < p.buckets.size(); ++k) {
        const auto* c = std::get_if<Collective>(&p.instrs[k].op);
        REQUIRE(c);
        CHECK(c->kind == Collective::Kind::all_gather);
        CHECK(p.instrs[k].writes[0] == Ref{p.weights, {4 * p.buckets[k].begin}, {4 * p.buckets[k].elements}});
      }
      for (std::size_t k = p.buckets.size(); k < p.instrs.size(); ++k)
        if (const auto* c = std::get_if<Collective>(&p.instrs[k].op)) CHECK(c->kind != Collective::Kind::all_gather);
    }
}

TEST_CASE("the closed form puts as much of the reductions behind the backward pass as the simulator does") {
  int compared = 0;
  for (const double speed : {0.03, 0.3, 10.0})
    for (const std::int64_t bucket : {std::int64_t{0}, std::int64_t{1}, std::int64_t{600'000'000}, kOne})
      for (const auto& [pp, tp, zero, schedule, recompute] :
           {std::tuple{1, 1, 0, Schedule::one_f_one_b, 0}, {1, 1, 1, Schedule::gpipe, 0}, {1, 4, 1, Schedule::one_f_one_b, 9},
            {2, 1, 0, Schedule::one_f_one_b, 0}, {2, 2, 1, Schedule::gpipe, 0}, {4, 1, 1, Schedule::one_f_one_b, 3}})
        for (const bool tied : {false, true}) {
          Plan plan = plan_8b(zero, bucket, speed);
          Strategy& s = plan.strategy;
          s.tp = tp, s.pp = pp, s.dp = 64 / tp / pp, s.sp = tp > 1, s.schedule = schedule;
          if (recompute > 0) s.recompute = Recompute::full, s.recompute_layers = recompute;
          plan.model.tie_word_embeddings = tied;
          plan.workload.global_batch = 4 * s.dp;
          CAPTURE(describe(s));
          CAPTURE(speed);
          CAPTURE(tied);
          const auto closed = std::get<Estimate>(estimate(plan.model, plan.cluster, plan.workload, s));
          std::vector<Program> programs = lower(plan);
          for (Program& p : programs) overlap(p);
          const Simulation run = simulate(programs, *time_model(plan));
          REQUIRE(run.deadlock.empty());
          // One stage is the same schedule; between stages micro-batches are taken to last as long as the later ones.
          CHECK(closed.time.step.value == doctest::Approx(run.step.value).epsilon(pp == 1 ? 1e-9 : 0.01));
          ++compared;
        }
  CHECK(compared == 144);
}

TEST_CASE("a trace says of each reduction which bucket it is, on a row beside the one of compute") {
  Strategy s;
  s.dp = 2, s.grad_bucket = 1;
  const Plan plan = tiny_plan(s, 1);
  const Lowered l = build(plan);
  const auto trace = nlohmann::json::parse(trace_json(l.programs, simulate(l.programs, *time_model(plan))));
  std::vector<int> buckets;
  for (const auto& e : trace.at("traceEvents"))
    if (e.at("name") == "all_reduce" && e.at("args").contains("bucket")) {
      CHECK(e.at("tid") == static_cast<int>(Stream::comm));
      buckets.push_back(e.at("args").at("bucket"));
    }
  CHECK(buckets == std::vector<int>{5, 4, 3, 2, 1, 0});  // head, four layers, embedding and norms
}
