#include "planner/overlap.h"

#include <doctest/doctest.h>

#include "planner/lower.h"
#include "tests/planner/plans.h"
#include "tests/planner/random_program.h"

using namespace llmplan;

TEST_CASE("vector clocks say the same as the transitive closure of streams and waits") {
  for (unsigned seed = 0; seed < 60; ++seed) {
    Program p = random_program(seed);
    overlap(p);
    // More waits than the dataflow needs, so that chains through three streams occur.
    std::mt19937 rng(seed);
    for (InstrId i = 1; i < static_cast<InstrId>(p.instrs.size()); ++i)
      if (rng() % 4 == 0) p.instrs[i].waits.push_back(static_cast<InstrId>(rng() % static_cast<unsigned>(i)));
    const Order order(p);
    const auto truth = ordered_by_definition(p);
    int wrong = 0;
    for (InstrId a = 0; a < order.size(); ++a)
      for (InstrId b = 0; b < order.size(); ++b) wrong += order.before(a, b) != truth[a][b];
    CHECK(wrong == 0);
  }
}

TEST_CASE("overlap orders every conflict of random programs, and no wait can be left out") {
  for (unsigned seed = 0; seed < 60; ++seed) {
    CAPTURE(seed);
    Program p = random_program(seed);
    overlap(p);
    const auto at = separate_addresses(p);
    CHECK(unordered_conflicts(p, at) == 0);
    without_each_wait(p, [&](const Program& q, InstrId, InstrId) { CHECK(unordered_conflicts(q, at) > 0); });
  }
}

TEST_CASE("activations go down, gradients go up, data-parallel collectives beside compute") {
  Strategy s;
  s.pp = 2, s.dp = 2, s.tp = 2, s.zero = 1;
  std::vector<Program> programs = lower(tiny_plan(s, 2));
  for (Program& p : programs) overlap(p);
  int seen = 0;
  for (const Program& p : programs)
    for (const Instr& i : p.instrs) {
      Stream want = Stream::compute;
      if (std::holds_alternative<Send>(i.op)) want = p.stage == 0 ? Stream::down : Stream::up;
      if (std::holds_alternative<Recv>(i.op)) want = p.stage == 1 ? Stream::down : Stream::up;
      if (const auto* c = std::get_if<Collective>(&i.op); c && c->axis != Axis::tp) want = Stream::comm;
      CHECK(i.stream == want);
      seen += want != Stream::compute;
    }
  CHECK(seen == 2 * (2 * 2 + 3));  // 2 micro-batches both ways; reduce-scatter, all-gather, norm on each stage
}

TEST_CASE("without overlap only point-to-point transfers leave the compute stream") {
  Strategy s;
  s.pp = 2, s.dp = 2;
  std::vector<Program> programs = lower(tiny_plan(s, 2));
  for (Program& p : programs) {
    overlap(p, false);
    for (const Instr& i : p.instrs)
      CHECK((i.stream == Stream::compute) == !(std::holds_alternative<Send>(i.op) || std::holds_alternative<Recv>(i.op)));
  }
}

TEST_CASE("one rank's program needs no waits") {
  std::vector<Program> programs = lower(tiny_plan({}, 3));
  overlap(programs[0]);
  CHECK(count_waits(programs[0]) == 0);
}
