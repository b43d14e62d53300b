// N ranks compute what one rank computes, whatever the strategy.
#include <doctest/doctest.h>

#include <cstdlib>
#include <fstream>
#include <map>

#include "executor/learning_rate.h"
#include "executor/memory.h"
#include "planner/simulate.h"
#include "tests/executor/grid.h"
#include "tests/executor/tiny_plan.h"

namespace llmplan {
namespace {

// Under the thread sanitizer everything is ten times slower: a part of the grid will do there.
#if defined(__SANITIZE_THREAD__)
constexpr bool kReduced = true;
#else
constexpr bool kReduced = false;
#endif

using Tensors = std::map<std::string, std::vector<float>>;

Tensors all(const Ranks& ranks, State state) {
  Tensors out;
  for (auto& t : ranks.tensors()) out[t.name] = ranks.read(state, t.name);
  return out;
}

struct Trajectory {
  std::vector<double> losses, norms;
  Tensors first_gradients, weights;
};

Trajectory run(const Plan& plan, std::int64_t steps, Placement placement = Placement::threads) {
  Ranks ranks(plan, nullptr, placement);
  ranks.init(plan.workload.seed);
  Trajectory t;
  for (std::int64_t step = 1; step <= steps; ++step) {
    StepResult r = ranks.step({step, learning_rate(plan.workload.optimizer, step, 20)}, tiny_source(step));
    t.losses.push_back(r.loss);
    t.norms.push_back(r.grad_norm);
    if (step == 1) t.first_gradients = all(ranks, State::gradients);
  }
  CHECK(ranks.first_difference() == "");  // replicas of a tensor stay the same bits
  t.weights = all(ranks, State::weights);
  return t;
}

const Trajectory& one_rank(bool tied) {
  static std::map<bool, Trajectory> known;
  auto [at, added] = known.try_emplace(tied);
  if (added) {
    Strategy s;
    s.micro_batch = 8;
    at->second = run(tiny_plan(s, tied), 20);
  }
  return at->second;
}

// fp32 rounds to 6e-8; sums in another order, over up to a few hundred terms, differ by some tens of that.
constexpr double kGradient = 2e-6, kLoss = 5e-6;

void check_first_step(const Strategy& s, bool tied) {
  const Trajectory& expected = one_rank(tied);
  Trajectory got = run(tiny_plan(s, tied), 1);
  INFO(describe(s), tied ? ", tied" : ", untied");
  CHECK(std::abs(got.losses[0] / expected.losses[0] - 1) < kLoss);
  CHECK(std::abs(got.norms[0] / expected.norms[0] - 1) < kGradient);
  REQUIRE(got.first_gradients.size() == expected.first_gradients.size());
  for (auto& [name, gradient] : expected.first_gradients) {
    INFO(name);
    CHECK(distance(got.first_gradients.at(name), gradient) < kGradient);
  }
}

TEST_CASE("The first step's loss, norm and gradients of every strategy in the grid are those of one rank") {
  auto strategies = grid();
  REQUIRE(strategies.size() > 200);
  std::size_t stride = kReduced ? 41 : 1;
  for (std::size_t i = 0; i < strategies.size(); i += stride) check_first_step(strategies[i], i % 2 == 0);
}

TEST_CASE("Tied and untied heads are equal under each kind of split") {
  for (bool tied : {false, true}) {
    Strategy tp, dp, pp, all;
    tp.tp = 2, dp.dp = 2, pp.pp = 2;
    all.tp = all.pp = all.dp = 2, all.sp = true, all.zero = 1;
    for (const Strategy& s : {tp, dp, pp, all}) check_first_step(s, tied);
  }
}

TEST_CASE("Losses over 20 steps are those of one rank") {
  std::vector<Strategy> strategies;
  for (const Strategy& s : grid()) {
    // One of each kind: the whole grid would take minutes.
    static std::map<std::string, int> seen;
    std::string key = std::to_string(s.tp > 1) + std::to_string(s.dp > 1) + std::to_string(s.pp > 1) + std::to_string(s.sp) +
                      std::to_string(s.zero) + std::to_string(s.recompute == Recompute::full) +
                      std::to_string(s.schedule == Schedule::gpipe);
    if (seen[key]++ == 0) strategies.push_back(s);
  }
  REQUIRE(strategies.size() > 20);
  for (std::size_t i = 0; i < strategies.size(); i += kReduced ? 9 : 1) {
    bool tied = i % 2 == 1;
    INFO(describe(strategies[i]), tied ? ", tied" : ", untied");
    const Trajectory& expected = one_rank(tied);
    Trajectory got = run(tiny_plan(strategies[i], tied), 20);
    for (std::size_t k = 0; k < 20; ++k) CHECK(std::abs(got.losses[k] / expected.losses[k] - 1) < kLoss);
  }
  CHECK(one_rank(false).losses.back() < 0.9 * one_rank(false).losses.front());  // it does learn
}

TEST_CASE("Recomputation changes no bit, nor does a second run") {
  for (bool tied : {false, true}) {
    Strategy s;
    s.tp = s.pp = s.dp = 2;
    s.sp = true;
    s.zero = 1;
    Strategy one;
    one.micro_batch = 2;
    for (Strategy base : {s, one}) {
      Strategy again = base;
      again.recompute = Recompute::full;
      auto a = run(tiny_plan(base, tied), 5), b = run(tiny_plan(base, tied), 5), c = run(tiny_plan(again, tied), 5);
      CHECK(a.losses == b.losses);
      CHECK(a.weights == b.weights);
      CHECK(a.losses == c.losses);
      CHECK(a.weights == c.weights);
      CHECK(a.first_gradients == c.first_gradients);
    }
  }
}

#if !defined(__SANITIZE_THREAD__)  // which does not support threads in a forked child
TEST_CASE("Ranks that are processes compute the bits that ranks as threads compute, for the grid up to 4 ranks") {
  int count = 0;
  for (const Strategy& s : grid()) {
    if (s.devices() > 4) continue;
    const Plan plan = tiny_plan(s, ++count % 2 == 0);
    INFO(describe(s));
    const Trajectory threads = run(plan, 1), processes = run(plan, 1, Placement::processes);
    CHECK(processes.losses == threads.losses);
    CHECK(processes.norms == threads.norms);
    CHECK(processes.first_gradients == threads.first_gradients);
    CHECK(processes.weights == threads.weights);
  }
  CHECK(count > 100);
}
#endif

TEST_CASE("Evaluation gives one rank's loss and changes nothing that training keeps") {
  Strategy s;
  s.tp = s.pp = s.dp = 2;
  s.zero = 1;
  Strategy one;
  one.micro_batch = 2;
  std::vector<double> losses;
  for (const Strategy& strategy : {one, s}) {
    Ranks ranks(tiny_plan(strategy));
    ranks.init(1);
    ranks.step({1, 1e-3}, tiny_source(1));
    Tensors before[] = {all(ranks, State::weights), all(ranks, State::moment1), all(ranks, State::moment2)};
    losses.push_back(ranks.evaluate(3, tiny_source(9)));
    CHECK(all(ranks, State::weights) == before[0]);
    CHECK(all(ranks, State::moment1) == before[1]);
    CHECK(all(ranks, State::moment2) == before[2]);
  }
  CHECK(std::abs(losses[0] / losses[1] - 1) < kLoss);
}

TEST_CASE("The predicted arena is what is allocated, for every strategy of the grid") {
  auto strategies = grid();
  for (std::size_t i = 0; i < strategies.size(); i += kReduced ? 70 : 7) {
    Plan plan = tiny_plan(strategies[i]);
    predict(plan);
    Ranks ranks(plan);
    Bytes most{};
    for (int r = 0; r < ranks.size(); ++r) most = std::max(most, ranks.allocated_arena(r));
    INFO(describe(strategies[i]));
    CHECK(most == plan.prediction.arena);
  }
}

#if !defined(__SANITIZE_THREAD__) && !defined(__SANITIZE_ADDRESS__)
std::int64_t resident() {
  std::ifstream in("/proc/self/statm");
  std::int64_t total = 0, pages = 0;
  in >> total >> pages;
  return pages * 4096;
}

TEST_CASE("What the system gives the process is the arenas and little else") {
  Strategy s;
  s.dp = 2;
  s.micro_batch = 4;
  Plan plan = tiny_plan(s);
  plan.model.hidden_size = 384, plan.model.head_dim = 48, plan.model.intermediate_size = 1024;
  plan.model.vocab_size = 4096;
  plan.workload.seq = 256;
  const std::int64_t before = resident();
  Ranks ranks(plan);
  ranks.init(1);
  SampleSource source = [&](std::int64_t i, auto ids, auto targets) { tiny_samples(1, 4096, i, ids, targets); };
  ranks.step({1, 1e-3}, source);
  std::int64_t arenas = 0;
  for (int r = 0; r < ranks.size(); ++r) arenas += ranks.allocated_arena(r).value;
  const double grown = static_cast<double>(resident() - before), expected = static_cast<double>(arenas);
  REQUIRE(arenas > 100'000'000);
  CHECK(grown < 1.05 * expected);
  CHECK(grown > 0.95 * expected);
}
#endif

}  // namespace
}  // namespace llmplan
