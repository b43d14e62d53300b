// The largest plan that anybody trains today, op by op.
#include <doctest/doctest.h>

#include <ctime>

#include "costmodel/profiles/profiles.h"
#include "planner/build.h"
#include "planner/simulate.h"
#include "tests/planner/plans.h"

using namespace llmplan;

namespace {

Plan plan_405b(std::int64_t global_batch) {
  Plan p;
  p.model = read_model("llama-3.1-405b");
  p.cluster = read_cluster("2048x8xh100-80g-sxm");
  p.workload.seq = 8192;
  p.workload.global_batch = global_batch;
  p.strategy.tp = 8, p.strategy.pp = 16, p.strategy.dp = 128;
  return p;
}

// CPU time: the planner uses one thread, and a machine that runs other tests beside it has no say.
double seconds_of(std::int64_t global_batch, std::size_t& instrs) {
  const std::clock_t start = std::clock();
  const Plan plan = plan_405b(global_batch);
  const Lowered l = build(plan);
  const Simulation run = simulate(l.programs, *time_model(plan));
  CHECK(run.deadlock.empty());
  CHECK(run.step.value > 0);
  instrs = 0;
  for (const Program& p : l.programs) instrs += p.instrs.size();
  return static_cast<double>(std::clock() - start) / CLOCKS_PER_SEC;
}

}  // namespace

TEST_CASE("llama-3.1-405b on 16384 H100 is lowered, laid out, verified and simulated in under 5 s, at linear cost") {
  std::size_t small = 0, large = 0;
  const double first = seconds_of(2048, small), second = seconds_of(8192, large);
  MESSAGE(small, " instructions: ", first, " s; ", large, " instructions: ", second, " s");
  CHECK(large > 3.5 * small);
  CHECK(first < 5);
  CHECK(second < 5);
  // Quadratic cost would be 4 times as much per instruction; 2.5 leaves room for a busy machine.
  CHECK(second / static_cast<double>(large) < 2.5 * first / static_cast<double>(small));
}
