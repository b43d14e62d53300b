// Schedules against an event simulation that knows only their order and their dependencies.
#include <doctest/doctest.h>

#include <algorithm>
#include <random>
#include <vector>

#include "costmodel/pipeline.h"

namespace llmplan {
namespace {

// The order of one stage: +i is the forward of micro-batch i−1, −i its backward.
std::vector<int> order(Schedule schedule, int stage, int stages, int m) {
  std::vector<int> list;
  const int lead = schedule == Schedule::gpipe ? m : std::min(stages - stage - 1, m);
  for (int i = 1; i <= lead; ++i) list.push_back(i);
  for (int i = lead + 1; i <= m; ++i) list.push_back(i), list.push_back(-(i - lead));
  for (int i = m - lead + 1; i <= m; ++i) list.push_back(-i);
  return list;
}

// Runs whatever is ready until nothing is left; no assumption on which stage goes first.
std::vector<double> brute_force(Schedule schedule, const std::vector<StagePass>& stages, int m, double hop) {
  const int n = static_cast<int>(stages.size());
  std::vector<std::vector<int>> todo;
  for (int s = 0; s < n; ++s) todo.push_back(order(schedule, s, n, m));
  std::vector<std::vector<double>> f(n, std::vector<double>(m + 1, -1)), b = f;
  std::vector<std::size_t> next(n, 0);
  std::vector<double> now(n, 0);
  for (bool moved = true; moved;) {
    moved = false;
    for (int s = 0; s < n; ++s)
      while (next[s] < todo[s].size()) {
        const int slot = todo[s][next[s]], i = std::abs(slot);
        double ready = 0;
        if (slot > 0 && s > 0) ready = f[s - 1][i] < 0 ? -1 : f[s - 1][i] + hop;
        if (slot < 0) ready = s + 1 < n ? (b[s + 1][i] < 0 ? -1 : b[s + 1][i] + hop) : f[s][i];
        if (ready < 0) break;
        now[s] = std::max(now[s], ready) + (slot > 0 ? stages[s].forward : stages[s].backward);
        if (slot == 1) now[s] = std::max(now[s], stages[s].ready);
        (slot > 0 ? f : b)[s][i] = now[s];
        ++next[s];
        moved = true;
      }
  }
  for (int s = 0; s < n; ++s) REQUIRE(next[s] == todo[s].size());
  return now;
}

TEST_CASE("uneven stages end when an event simulation of the schedule says, for GPipe and 1F1B") {
  std::mt19937 random(1);
  std::uniform_real_distribution<double> seconds(0.1, 3);
  for (int trial = 0; trial < 2000; ++trial) {
    const int n = 1 + trial % 9, m = 1 + static_cast<int>(random() % 40);
    const double hop = trial % 3 == 0 ? 0 : seconds(random) * 0.3;
    std::vector<StagePass> stages;
    // In some trials first forward passes wait for weights, in some of those longer than the pipeline takes to fill.
    const double late = trial % 4 == 0 ? 2 : trial % 4 == 1 ? 12 : 0;
    for (int s = 0; s < n; ++s) stages.push_back({seconds(random), seconds(random), late * seconds(random)});
    for (const Schedule schedule : {Schedule::gpipe, Schedule::one_f_one_b}) {
      std::vector<double> ends(n);
      pipeline_ends(schedule, stages, m, hop, ends);
      const std::vector<double> expected = brute_force(schedule, stages, m, hop);
      for (int s = 0; s < n; ++s) CHECK(ends[s] == doctest::Approx(expected[s]).epsilon(1e-12));
    }
  }
}

TEST_CASE("equal stages take (m + p − 1) passes in both schedules (Narayanan et al. 2021)") {
  for (int p : {1, 2, 4, 8, 16})
    for (int m : {1, 4, 16, 100}) {
      const std::vector<StagePass> stages(p, {1, 2});
      std::vector<double> ends(p);
      for (const Schedule schedule : {Schedule::gpipe, Schedule::one_f_one_b}) {
        pipeline_ends(schedule, stages, m, 0, ends);
        CHECK(*std::max_element(ends.begin(), ends.end()) == doctest::Approx(3.0 * (m + p - 1)));
      }
    }
}

TEST_CASE("a long step is extrapolated from its steady state to within 0.5 % of the simulation") {
  std::mt19937 random(2);
  std::uniform_real_distribution<double> seconds(0.5, 1.5);
  for (int trial = 0; trial < 40; ++trial) {
    const int n = 4 + trial % 6, m = 1500;
    std::vector<StagePass> stages;
    for (int s = 0; s < n; ++s) stages.push_back({seconds(random), 2 * seconds(random)});
    std::vector<double> ends(n);
    pipeline_ends(Schedule::one_f_one_b, stages, m, 0.05, ends);
    const std::vector<double> expected = brute_force(Schedule::one_f_one_b, stages, m, 0.05);
    // The steady state is taken from rounds 3n to 4n; where two stages are almost equally slow it
    // has not quite settled by then.
    CHECK(ends[0] == doctest::Approx(expected[0]).epsilon(0.005));
  }
}

TEST_CASE("1F1B holds no more than its stage's distance from the end, GPipe everything") {
  CHECK(in_flight(Schedule::one_f_one_b, 0, 4, 100) == 4);
  CHECK(in_flight(Schedule::one_f_one_b, 3, 4, 100) == 1);
  CHECK(in_flight(Schedule::one_f_one_b, 0, 4, 2) == 2);
  CHECK(in_flight(Schedule::gpipe, 3, 4, 100) == 100);
}

}  // namespace
}  // namespace llmplan
