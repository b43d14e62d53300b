#include "planner/layout.h"

#include <doctest/doctest.h>

#include "planner/lower.h"
#include "planner/overlap.h"
#include "planner/verify.h"
#include "tests/planner/plans.h"
#include "tests/planner/random_program.h"

using namespace llmplan;

namespace {

bool is_p2p_or_comm(const Instr& i) { return i.stream != Stream::compute; }

// Most bytes between first and last use at once, by asking every instruction.
std::int64_t live_peak_by_definition(const Program& p) {
  std::vector<int> first(p.buffers.size(), -1), last(p.buffers.size(), -1);
  for (int i = 0; i < static_cast<int>(p.instrs.size()); ++i)
    for (const auto* refs : {&p.instrs[i].reads, &p.instrs[i].writes})
      for (const Ref& r : *refs) {
        if (first[r.buffer] < 0) first[r.buffer] = i;
        last[r.buffer] = i;
      }
  std::int64_t peak = 0;
  for (int i = 0; i < static_cast<int>(p.instrs.size()); ++i) {
    std::int64_t live = 0;
    for (std::size_t b = 0; b < p.buffers.size(); ++b) {
      const bool alive = p.buffers[b].persistent || (first[b] >= 0 && first[b] <= i && i <= last[b]);
      if (alive && p.buffers[b].space == Space::device) live += (p.buffers[b].size.value + 255) / 256 * 256;
    }
    peak = std::max(peak, live);
  }
  return peak;
}

}  // namespace

TEST_CASE("sharing bytes adds no hazard to random programs, and verify's sweep agrees with the definition") {
  for (unsigned seed = 0; seed < 150; ++seed) {
    CAPTURE(seed);
    Program p = random_program(seed, 50, 24);
    overlap(p);
    const Layout layout = place(p);
    const auto at = addresses(p, layout);
    CHECK(unordered_conflicts(p, at) == 0);
    CHECK(find_hazards(p, layout).empty());
    CHECK(layout.live_peak.value == live_peak_by_definition(p));
    CHECK(layout.device_arena >= layout.live_peak);
    without_each_wait(p, [&](const Program& q, InstrId, InstrId) {
      CHECK(find_hazards(q, layout).empty() == (unordered_conflicts(q, at) == 0));
    });
  }
}

TEST_CASE("find_hazards is empty exactly when the definition finds no unordered conflict") {
  int with = 0, without = 0;
  for (unsigned seed = 0; seed < 300; ++seed) {
    // A layout of its own making, which knows nothing of order: offsets collide at random.
    Program p = random_program(seed, 12, 8);
    overlap(p);
    std::mt19937 rng(seed);
    Layout layout;
    for (std::size_t b = 0; b < p.buffers.size(); ++b) layout.offset.push_back({static_cast<std::int64_t>(b * 2048 + rng() % 2 * 1024)});
    layout.device_arena = layout.host_arena = {1 << 20};
    const bool truth = unordered_conflicts(p, addresses(p, layout)) > 0;
    (truth ? with : without)++;
    CHECK(find_hazards(p, layout).empty() == !truth);
  }
  CHECK(with > 20);
  CHECK(without > 20);
}

TEST_CASE("every buffer is aligned, inside its arena, and persistent ones come first, in order") {
  for (unsigned seed = 0; seed < 20; ++seed) {
    Program p = random_program(seed);
    overlap(p);
    const Layout l = place(p);
    for (std::size_t b = 0; b < p.buffers.size(); ++b) {
      const Bytes arena = p.buffers[b].space == Space::device ? l.device_arena : l.host_arena;
      CHECK(l.offset[b].value % kAlign == 0);
      CHECK(l.offset[b].value >= 0);
      CHECK(l.offset[b] + p.buffers[b].size <= arena);
    }
  }
  const Plan plan = tiny_plan({}, 2);
  Program train = lower(plan)[0], evaluate = lower(plan, Purpose::evaluate)[0];
  overlap(train), overlap(evaluate);
  const Layout a = place(train), b = place(evaluate);
  CHECK(a.offset[train.weights] == b.offset[evaluate.weights]);
  CHECK(a.offset[train.rope_table] == b.offset[evaluate.rope_table]);
}

TEST_CASE("reuse never makes a transfer wait for a transfer") {
  for (unsigned seed = 0; seed < 100; ++seed) {
    Program p = random_program(seed, 60, 30);
    overlap(p);
    const auto before = ordered_by_definition(p);
    place(p);
    for (InstrId i = 0; i < static_cast<InstrId>(p.instrs.size()); ++i)
      for (InstrId w : p.instrs[i].waits)
        CHECK((before[w][i] || !is_p2p_or_comm(p.instrs[i]) || !is_p2p_or_comm(p.instrs[w])));
  }
}

TEST_CASE("the arena is within 6 % of the bytes that are alive at once, for every strategy of the grid") {
  double worst = 0;
  for (const Strategy& s : strategy_grid())
    for (Program& p : lower(tiny_plan(s, 6))) {
      overlap(p);
      const Layout l = place(p);
      worst = std::max(worst, l.device_arena / l.live_peak - 1);
    }
  MESSAGE("largest excess: ", worst * 100, " %");
  CHECK(worst < 0.06);
}

TEST_CASE("placing is deterministic") {
  Strategy s;
  s.pp = 2, s.dp = 2;
  std::vector<Program> a = lower(tiny_plan(s, 4)), b = a;
  for (std::size_t i = 0; i < a.size(); ++i) {
    overlap(a[i]), overlap(b[i]);
    const Layout x = place(a[i]), y = place(b[i]);
    CHECK(x.offset == y.offset);
    CHECK(a[i].instrs.size() == b[i].instrs.size());
  }
  CHECK(digest(a) == digest(b));
}
