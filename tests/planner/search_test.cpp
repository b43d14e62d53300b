#include "planner/search.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <limits>
#include <map>
#include <numeric>

#include "planner/simulate.h"
#include "plans.h"

using namespace llmplan;

namespace {

Cluster gpus(std::int64_t nodes, std::int64_t per_node, Bytes memory) {
  Cluster c;
  c.name = "gpus";
  c.nodes = nodes;
  c.devices_per_node = per_node;
  c.device.name = "gpu";
  c.device.memory = memory;
  c.device.reserve = 1_GiB;
  c.device.peak = {{DType::bf16, {400e12}}};
  c.device.vector_peak = {20e12};
  c.device.memory_bandwidth = {2e12};
  c.device.gemm_efficiency = {{{1e8, 0.1}, {1e12, 0.7}}};
  c.device.attention_efficiency = {{{1, 0.5}}};
  c.device.memory_efficiency = {{{1, 0.8}}};
  c.intra = {"fast", {300e9}, {3e-6}, {{{1, 1}}}};
  c.inter = {"slow", {25e9}, {8e-6}, {{{1, 1}}}};
  return c;
}

ModelConfig model_1b() {
  ModelConfig m = tiny_model(16);
  m.hidden_size = 2048, m.intermediate_size = 8192, m.num_attention_heads = 32, m.num_key_value_heads = 8;
  m.head_dim = 64, m.vocab_size = 128256, m.max_position_embeddings = 8192;
  return m;
}

Workload batch(std::int64_t global, std::int64_t seq, DType precision) {
  Workload w;
  w.global_batch = global;
  w.seq = seq;
  w.precision = precision;
  return w;
}

std::int64_t sum_pruned(const SearchResult& r) {
  std::int64_t n = 0;
  for (const auto& [reason, count] : r.pruned) n += count;
  return n;
}

// Every way to write `layers` as a sum of `stages` positive numbers.
void compositions(std::int64_t layers, std::int64_t stages, std::vector<std::int64_t> head, const auto& visit) {
  if (stages == 1) {
    head.push_back(layers);
    return visit(head);
  }
  for (std::int64_t n = 1; n <= layers - stages + 1; ++n) {
    head.push_back(n);
    compositions(layers - n, stages - 1, head, visit);
    head.pop_back();
  }
}

}  // namespace

TEST_CASE("the best by closed form is what plain loops over every combination find") {
  const ModelConfig m = model_1b();
  const Cluster c = gpus(2, 4, 24_GiB);
  const Workload w = batch(32, 4096, DType::bf16);
  Limits limits;
  limits.simulate_top = 0;
  limits.keep = 100000;
  const SearchResult r = search(m, c, w, limits);
  REQUIRE_FALSE(r.ranking.empty());

  double best = std::numeric_limits<double>::infinity();
  std::int64_t legal = 0;
  for (std::int64_t tp : {1, 2, 4, 8})
    for (std::int64_t pp : {1, 2, 4, 8})
      for (std::int64_t dp = 1; dp <= 8; ++dp)
        for (int zero : {0, 1})
          for (bool sp : {false, true})
            for (std::int64_t micro_batch = 1; micro_batch <= 32; ++micro_batch)
              for (Recompute recompute : {Recompute::none, Recompute::full})
                for (Schedule schedule : {Schedule::gpipe, Schedule::one_f_one_b}) {
                  Strategy s;
                  s.tp = tp, s.pp = pp, s.dp = dp, s.zero = zero, s.sp = sp, s.micro_batch = micro_batch;
                  s.recompute = recompute, s.schedule = schedule;
                  const auto e = estimate(m, c, w, s);
                  if (!std::holds_alternative<Estimate>(e)) continue;
                  const bool distinct = (dp > 1 || zero == 0) && (pp > 1 || schedule == Schedule::one_f_one_b);
                  legal += distinct;
                  if (std::get<Estimate>(e).fits) best = std::min(best, std::get<Estimate>(e).time.step.value);
                }
  // Uneven splits and partial recomputation, which the loops lack, can only be better.
  CHECK(r.ranking.front().time.step.value <= best);
  CHECK(r.evaluated >= legal);
  double best_even = std::numeric_limits<double>::infinity();
  for (const Estimate& e : r.ranking) {
    Strategy plain = e.strategy;
    plain.layers_per_stage = {};
    if (e.strategy.layers_per_stage == layer_split(plain, 16) && e.strategy.recompute_layers == 0)
      best_even = std::min(best_even, e.time.step.value);
  }
  CHECK(best_even == best);
}

TEST_CASE("every combination is counted once: it fits or it is pruned under a reason") {
  for (std::int64_t memory : {1, 6, 12, 24, 80})
    for (bool estimate_only : {false, true}) {
      Limits limits;
      limits.simulate_top = 0;
      limits.estimate_only = estimate_only;
      const SearchResult r = search(model_1b(), gpus(2, 4, {memory << 30}), batch(24, 4096, DType::bf16), limits);
      CHECK(r.space == sum_pruned(r) + r.fitting);
      CHECK(r.ranking.size() == static_cast<std::size_t>(std::min<std::int64_t>(r.fitting, 100)));
      CHECK(std::is_sorted(r.ranking.begin(), r.ranking.end(),
                           [](const Estimate& a, const Estimate& b) { return a.time.step < b.time.step; }));
      for (const Estimate& e : r.ranking) CHECK(e.fits);
      for (const Estimate& e : r.closest) CHECK_FALSE(e.fits);
      CHECK(r.proven_optimal);
    }
}

TEST_CASE("when nothing fits the closest misses by the least") {
  Limits limits;
  const SearchResult r = search(model_1b(), gpus(1, 2, 4_GiB), batch(8, 4096, DType::bf16), limits);
  CHECK(r.ranking.empty());
  CHECK(r.simulated == 0);
  REQUIRE_FALSE(r.closest.empty());
  for (const Estimate& e : r.closest) CHECK(e.memory.peak >= r.closest.front().memory.peak);
  const auto memory = std::find_if(r.pruned.begin(), r.pruned.end(), [](const auto& p) { return p.first == "memory"; });
  REQUIRE(memory != r.pruned.end());
  CHECK(memory->second > 0);
}

TEST_CASE("of the Pareto front none is both faster and smaller, and the fastest of all is on it") {
  Limits limits;
  limits.simulate_top = 0;
  limits.keep = 100000;
  const SearchResult r = search(model_1b(), gpus(2, 4, 80_GiB), batch(32, 4096, DType::bf16), limits);
  REQUIRE(r.pareto.size() > 2);
  CHECK(r.pareto.front().time.step == r.ranking.front().time.step);
  for (std::size_t i = 1; i < r.pareto.size(); ++i) {
    CHECK(r.pareto[i - 1].time.step < r.pareto[i].time.step);
    CHECK(r.pareto[i - 1].memory.peak > r.pareto[i].memory.peak);
  }
  int beaten = 0;
  for (const Estimate& e : r.ranking)
    for (const Estimate& p : r.pareto) beaten += e.time.step < p.time.step && e.memory.peak < p.memory.peak;
  CHECK(beaten == 0);
}

// Brute force over every split. The head is worth one layer of the first model, a dozen of the second.
TEST_CASE("no split of the layers is faster than the balanced one by more than 1 %") {
  ModelConfig large = model_1b(), small = model_1b();
  large.num_hidden_layers = 10;
  small.num_hidden_layers = 18;
  small.hidden_size = 512, small.intermediate_size = 2048, small.num_attention_heads = 8;
  const Workload w = batch(16, 4096, DType::bf16);
  for (const ModelConfig& m : {large, small})
    for (std::int64_t pp : {2, 3, 4})
      for (Schedule schedule : {Schedule::one_f_one_b, Schedule::gpipe}) {
        const Cluster cluster = gpus(1, pp, 80_GiB);
        Strategy s;
        s.pp = pp, s.schedule = schedule, s.recompute = Recompute::full;
        CAPTURE(m.hidden_size);
        CAPTURE(describe(s));
        const auto step = [&](const std::vector<std::int64_t>& split) {
          s.layers_per_stage = split;
          return std::get<Estimate>(estimate(m, cluster, w, s)).time.step.value;
        };
        double best = std::numeric_limits<double>::infinity();
        compositions(m.num_hidden_layers, pp, {}, [&](const auto& split) { best = std::min(best, step(split)); });
        const double even = step({});
        s.layers_per_stage = {};
        const auto balanced = balanced_split(m, cluster, w, s);
        CHECK(std::accumulate(balanced.begin(), balanced.end(), std::int64_t{0}) == m.num_hidden_layers);
        CHECK(step(balanced) <= best * 1.01);  // the ends of the step differ a little with the optimizer's share
        CHECK(step(balanced) <= even);
        if (schedule == Schedule::one_f_one_b) CHECK(balanced.back() < balanced.front());  // the head weighs on it
      }
}

TEST_CASE("the balanced split moves layers away from stages that would not fit") {
  ModelConfig m = model_1b();
  Strategy s;
  s.pp = 4;
  const Workload w = batch(64, 4096, DType::bf16);
  bool rescued = false;
  for (std::int64_t mib = 8000; mib < 24000; mib += 250) {
    const Cluster c = gpus(1, 4, {mib << 20});
    s.layers_per_stage = {};
    const bool even = std::get<Estimate>(estimate(m, c, w, s)).fits;
    s.layers_per_stage = balanced_split(m, c, w, s);
    if (s.layers_per_stage.empty()) {
      CHECK_FALSE(even);
      continue;
    }
    CHECK(std::get<Estimate>(estimate(m, c, w, s)).fits);
    rescued |= !even;
  }
  CHECK(rescued);
}

TEST_CASE("where only recomputation fits, the fewest layers that fit are recomputed") {
  const ModelConfig m = model_1b();
  const Workload w = batch(8, 8192, DType::bf16);
  Limits limits;
  limits.tp = {1}, limits.pp = {1}, limits.dp = {1}, limits.zero = {0}, limits.micro_batch = {2};
  limits.simulate_top = 0;
  bool partial = false;
  for (std::int64_t gib = 24; gib < 64; gib += 2) {
    const Cluster c = gpus(1, 1, {gib << 30});
    const SearchResult r = search(m, c, w, limits);
    CHECK(r.space == sum_pruned(r) + r.fitting);
    std::int64_t fewest = -1;  // by trying every number
    for (std::int64_t n = 16; n >= 1; --n) {
      Strategy s;
      s.micro_batch = 2, s.recompute = Recompute::full, s.recompute_layers = n % 16;
      if (std::get<Estimate>(estimate(m, c, w, s)).fits) fewest = n;
    }
    Strategy none;
    none.micro_batch = 2;
    if (std::get<Estimate>(estimate(m, c, w, none)).fits) fewest = 0;
    if (fewest < 0) {
      CHECK(r.ranking.empty());
      continue;
    }
    REQUIRE_FALSE(r.ranking.empty());
    const Strategy& best = r.ranking.front().strategy;
    CHECK((best.recompute == Recompute::none ? 0 : best.recompute_layers == 0 ? 16 : best.recompute_layers) == fewest);
    partial |= fewest > 0 && fewest < 16;
  }
  CHECK(partial);
}

TEST_CASE("limits are obeyed") {
  Limits limits;
  limits.tp = {2, 4}, limits.dp = {2}, limits.zero = {1}, limits.sp = {1}, limits.schedule = {Schedule::gpipe};
  limits.recompute = {Recompute::full}, limits.micro_batch = {2};
  limits.simulate_top = 0;
  const SearchResult r = search(model_1b(), gpus(2, 4, 80_GiB), batch(32, 4096, DType::bf16), limits);
  REQUIRE_FALSE(r.ranking.empty());
  for (const Estimate& e : r.ranking) {
    const Strategy& s = e.strategy;
    CHECK((s.tp == 2 || s.tp == 4));
    CHECK(s.dp == 2);
    CHECK(s.zero == 1);
    CHECK(s.sp);
    CHECK((s.schedule == Schedule::gpipe || s.pp == 1));
    CHECK(s.recompute == Recompute::full);
    CHECK(s.micro_batch == 2);
  }
  limits = {};
  limits.layers_per_stage = {3, 6, 7};
  limits.simulate_top = 0;
  const SearchResult split = search(model_1b(), gpus(1, 6, 80_GiB), batch(32, 4096, DType::bf16), limits);
  REQUIRE_FALSE(split.ranking.empty());
  for (const Estimate& e : split.ranking) CHECK(e.strategy.layers_per_stage == limits.layers_per_stage);
}

TEST_CASE("only strategies with a program are searched, unless others are asked for or the model has none") {
  const Cluster c = gpus(2, 4, 80_GiB);
  const Workload w = batch(32, 4096, DType::bf16);
  const auto zeros = [&](const ModelConfig& m, const Limits& limits) {
    std::map<int, int> seen;
    for (const Estimate& e : search(m, c, w, limits).ranking) ++seen[e.strategy.zero];
    return seen;
  };
  Limits limits;
  limits.simulate_top = 0;
  limits.keep = 100000;
  CHECK(zeros(model_1b(), limits).rbegin()->first == 1);
  limits.zero = {3};
  CHECK(zeros(model_1b(), limits).count(3));
  limits.zero = {};
  limits.estimate_only = true;
  CHECK(zeros(model_1b(), limits).count(3));
  limits.estimate_only = false;
  ModelConfig gelu = model_1b();
  gelu.mlp = Mlp::gelu;
  CHECK(zeros(gelu, limits).count(3));
}

TEST_CASE("on this machine's cores any number of ranks up to the cores is tried, more when asked for") {
  const ModelConfig m = tiny_model();
  const Workload w = batch(8, 32, DType::fp32);
  const auto most_ranks = [&](const Limits& limits) {
    std::int64_t most = 0;
    for (const Estimate& e : search(m, cpu_cluster(2), w, limits).ranking) most = std::max(most, e.strategy.devices());
    return most;
  };
  Limits limits;
  limits.simulate_top = 0;
  CHECK(most_ranks(limits) == 2);
  limits.dp = {4};
  CHECK(most_ranks(limits) == 4);
}

TEST_CASE("the winner is the fastest of those simulated, and its time is what the plan will predict") {
  const ModelConfig m = tiny_model();
  const Cluster c = cpu_cluster(2);
  const Workload w = batch(8, 32, DType::fp32);
  const SearchResult r = search(m, c, w, {});
  CHECK(r.simulated == 8);
  REQUIRE(r.predictions.size() == 8);
  for (std::size_t i = 0; i < r.predictions.size(); ++i) {
    const Estimate& e = r.ranking[i];
    Plan plan{m, c, w, e.strategy, {}, {}};
    predict(plan);
    CHECK(plan.prediction.step == e.time.step);
    CHECK(plan.prediction.step == r.predictions[i].step);
    CHECK(e.tokens_per_s == doctest::Approx(plan.prediction.tokens_per_s).epsilon(1e-12));
    const Time& t = e.time;
    const double sum = (t.compute + t.tp_comm + t.cp_comm + t.ep_comm + t.dp_comm + t.pp_comm + t.bubble + t.optimizer + t.host).value;
    CHECK(sum == doctest::Approx(t.step.value).epsilon(1e-9));
    if (i) CHECK(r.predictions[i - 1].step <= r.predictions[i].step);
  }
}
