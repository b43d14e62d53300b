#include "planner/trace.h"

#include <doctest/doctest.h>

#include <nlohmann/json.hpp>

#include "planner/build.h"
#include "tests/planner/plans.h"

using namespace llmplan;

TEST_CASE("a trace holds every instruction once, at its time, and memory that begins and ends with what persists") {
  Strategy s;
  s.pp = 2;
  const Plan plan = tiny_plan(s, 3);
  const Lowered l = build(plan);
  const Simulation run = simulate(l.programs, *time_model(plan));
  const auto trace = nlohmann::json::parse(trace_json(l.programs, run));
  std::vector<std::int64_t> first(2, -1), last(2), most(2);
  std::size_t events = 0;
  for (const auto& e : trace.at("traceEvents")) {
    const int stage = e.at("pid");
    if (e.at("ph") == "X") {
      const InstrId i = e.at("args").at("instr");
      CHECK(e.at("name") == kind_of(l.programs[stage].instrs[i].op));
      CHECK(e.at("tid") == static_cast<int>(l.programs[stage].instrs[i].stream));
      const Span& at = run.stages[stage][i];
      CHECK(double(e.at("ts")) == doctest::Approx(at.start.value * 1e6).epsilon(1e-3));  // three decimals of a µs
      CHECK(double(e.at("dur")) == doctest::Approx((at.finish - at.start).value * 1e6).epsilon(1e-3));
      ++events;
    } else if (e.at("ph") == "C") {
      const std::int64_t bytes = e.at("args").at("bytes");
      if (first[stage] < 0) first[stage] = bytes;
      last[stage] = bytes;
      most[stage] = std::max(most[stage], bytes);
    }
  }
  CHECK(events == l.programs[0].instrs.size() + l.programs[1].instrs.size());
  for (int stage = 0; stage < 2; ++stage) {
    std::int64_t persistent = 0;
    for (const Buffer& b : l.programs[stage].buffers) persistent += b.persistent ? b.size.value : 0;
    CHECK(last[stage] == persistent);
    CHECK(first[stage] >= persistent);
    CHECK(most[stage] <= l.layouts[stage].device_arena.value);
    CHECK(most[stage] > persistent);
  }
}

TEST_CASE("predict fills in what the plan promises, and equal plans have equal digests") {
  Strategy s;
  s.pp = 2, s.dp = 2;
  Plan a = tiny_plan(s, 4), b = a;
  a.cluster.device.reserve = 10_MiB;
  a.cluster.device.peak[DType::fp32] = {100e9};
  predict(a), predict(b);
  const Lowered l = build(a);
  CHECK(a.digest == digest(l.programs));
  CHECK(a.digest == b.digest);
  CHECK(a.strategy.layers_per_stage == std::vector<std::int64_t>{2, 2});
  CHECK(a.prediction.step == simulate(l.programs, *time_model(a)).step);
  CHECK(a.prediction.arena == std::max(l.layouts[0].device_arena, l.layouts[1].device_arena));
  CHECK(a.prediction.peak_memory == a.prediction.arena + 10_MiB);
  CHECK(a.prediction.tokens_per_s == doctest::Approx(8 * 32 / a.prediction.step.value).epsilon(1e-12));
  // 4 ranks share 2 cores of 100 GFLOP/s.
  CHECK(a.prediction.mfu == doctest::Approx(a.prediction.tflops_per_device / 0.05).epsilon(1e-12));
  CHECK(b.prediction.mfu == -1);
}
