#include "planner/verify.h"

#include <doctest/doctest.h>

#include <functional>
#include <set>

#include "costmodel/error.h"
#include "planner/build.h"
#include "planner/layout.h"
#include "planner/overlap.h"
#include "planner/simulate.h"
#include "tests/planner/plans.h"
#include "tests/planner/random_program.h"

using namespace llmplan;

namespace {

// The message with which verify refuses, or nothing.
std::string refusal(const Lowered& l) {
  try {
    verify(l.programs, l.layouts);
  } catch (const Error& e) {
    CHECK(e.code == "E0320");
    CHECK(!e.hint.empty());
    return e.message;
  }
  return {};
}
bool names(const std::string& message, const Program& p, InstrId i) {
  return message.find(describe(p, i)) != std::string::npos;
}

Lowered pipeline(std::int64_t pp, Schedule schedule = Schedule::one_f_one_b, std::int64_t micro_batches = 6) {
  Strategy s;
  s.pp = pp, s.schedule = schedule, s.dp = 2, s.zero = 1;
  return build(tiny_plan(s, micro_batches));
}

std::vector<InstrId> sends_of(const Program& p) {
  std::vector<InstrId> found;
  for (InstrId i = 0; i < static_cast<InstrId>(p.instrs.size()); ++i)
    if (std::holds_alternative<Send>(p.instrs[i].op)) found.push_back(i);
  return found;
}

struct UnitTime : TimeModel {
  Seconds time(const Op&) const override { return {1}; }
};

}  // namespace

TEST_CASE("every strategy of the grid is built and passes verify") {
  for (const Strategy& s : strategy_grid()) {
    CAPTURE(describe(s));
    CHECK_NOTHROW(build(tiny_plan(s, 5)));
    if (s.pp == 1 || s.schedule == Schedule::one_f_one_b) CHECK_NOTHROW(build(tiny_plan(s), Purpose::evaluate));
  }
}

TEST_CASE("a tied embedding, whose gradient both ends of the pipeline sum, passes verify") {
  Strategy s;
  s.pp = 4, s.dp = 2;
  Plan plan = tiny_plan(s, 3);
  plan.model.tie_word_embeddings = true;
  const Lowered l = build(plan);
  int sums = 0;
  for (const Program& p : l.programs)
    for (const Instr& i : p.instrs)
      if (const auto* c = std::get_if<Collective>(&i.op)) sums += c->axis == Axis::embedding;
  CHECK(sums == 2);
}

TEST_CASE("a program that lacks any one of its waits is refused, and the instruction is named") {
  int removed = 0;
  for (const Strategy& s : strategy_grid()) {
    if (s.pp == 1 && s.dp == 1) continue;
    const Lowered built = build(tiny_plan(s, 3));
    for (std::size_t stage = 0; stage < built.programs.size(); ++stage)
      without_each_wait(built.programs[stage], [&](const Program& q, InstrId i, InstrId) {
        Lowered l = built;
        l.programs[stage] = q;
        // find_hazards alone, because verify would look at all stages again for every wait.
        const auto h = find_hazards(q, built.layouts[stage]);
        REQUIRE(!h.empty());
        ++removed;
        if (removed % 50 != 0) return;
        const std::string message = refusal(l);
        CHECK(names(message, q, h[0].first));
        CHECK(names(message, q, h[0].second));
        CHECK(h[0].second >= i);
      });
  }
  CHECK(removed > 500);
}

TEST_CASE("swapped sends are refused and named") {
  const Lowered built = pipeline(2);
  const std::vector<InstrId> sends = sends_of(built.programs[0]);
  REQUIRE(sends.size() == 6);
  const auto swap_instructions = [](Instr& a, Instr& b) { std::swap(a, b); };
  const auto swap_payloads = [](Instr& a, Instr& b) { std::swap(a.reads, b.reads); };
  for (const auto& swap : std::vector<std::function<void(Instr&, Instr&)>>{swap_instructions, swap_payloads})
    for (std::size_t k = 0; k + 1 < sends.size(); ++k) {
      Lowered l = built;
      Program& p = l.programs[0];
      swap(p.instrs[sends[k]], p.instrs[sends[k + 1]]);
      const std::string message = refusal(l);
      CHECK((names(message, p, sends[k]) || names(message, p, sends[k + 1])));
    }
}

TEST_CASE("transfers of both directions on one in-order stream are refused, and 1F1B would deadlock on it") {
  for (const Stream one : {Stream::down, Stream::up, Stream::comm, Stream::compute}) {
    Lowered l = pipeline(4);
    for (Program& p : l.programs) {
      for (Instr& i : p.instrs) {
        if (std::holds_alternative<Send>(i.op) || std::holds_alternative<Recv>(i.op)) i.stream = one;
        i.waits.clear();
      }
      add_waits(p, separate_addresses(p));
    }
    const std::string message = refusal(l);
    CHECK((message.find("send") != std::string::npos || message.find("recv") != std::string::npos));
    CHECK(message.find("stream") != std::string::npos);
    const Simulation run = simulate(l.programs, UnitTime{});
    CHECK(run.deadlock.find("send") != std::string::npos);
  }
}

TEST_CASE("transfers that lack a partner, differ in size or go nowhere are refused and named") {
  const Lowered built = pipeline(2);
  const InstrId send = sends_of(built.programs[0])[3];
  const auto broken = [&](auto&& change) {
    Lowered l = built;
    change(l.programs[0], l.programs[0].instrs[send]);
    const std::string message = refusal(l);
    CHECK(names(message, l.programs[0], send));
  };
  broken([](Program&, Instr& i) { std::get<Send>(i.op).size += 256_B; });
  broken([](Program&, Instr& i) { std::get<Send>(i.op).size += 256_B, i.reads[0].size += 256_B; });
  broken([](Program&, Instr& i) { std::get<Send>(i.op).stage = 7; });
  broken([](Program&, Instr& i) { std::get<Send>(i.op).stage = 0; });
  broken([](Program&, Instr& i) { i.micro_batch = 99; });
  broken([](Program&, Instr& i) { i.stream = Stream::up; });
  broken([](Program&, Instr& i) { i.reads[0].offset = {4}; });
  broken([](Program&, Instr& i) { i.reads[0].buffer = 1 << 30; });
  broken([](Program&, Instr& i) { i.reads.clear(); });
  broken([&](Program&, Instr& i) { i.waits.push_back(send); });
  broken([](Program&, Instr& i) { i.waits.push_back(-5); });

  Lowered l = built;
  const InstrId last = sends_of(l.programs[0]).back();
  l.programs[0].instrs[last].op = Add{1, DType::fp32};
  l.programs[0].instrs[last].stream = Stream::compute;
  const Ref float1{l.programs[0].weights, {}, {4}};
  l.programs[0].instrs[last].reads = {float1, float1}, l.programs[0].instrs[last].writes = {float1};
  CHECK(refusal(l).find("never sends it") != std::string::npos);
}

TEST_CASE("operands of the wrong size are refused for every op of a program, reads and writes") {
  Strategy s;
  s.pp = 2, s.tp = 2, s.sp = true, s.dp = 2, s.zero = 1;
  const Lowered built = build(tiny_plan(s, 2));
  std::set<std::string_view> kinds;
  for (std::size_t stage = 0; stage < 2; ++stage)
    for (InstrId i = 0; i < static_cast<InstrId>(built.programs[stage].instrs.size()); ++i) {
      if (!kinds.insert(kind_of(built.programs[stage].instrs[i].op)).second) continue;
      const Instr& original = built.programs[stage].instrs[i];
      for (std::size_t k = 0; k < original.reads.size() + original.writes.size(); ++k) {
        Lowered l = built;
        Instr& in = l.programs[stage].instrs[i];
        Ref& r = k < in.reads.size() ? in.reads[k] : in.writes[k - in.reads.size()];
        r.size.value -= 1;
        CAPTURE(describe(l.programs[stage], i));
        CHECK(names(refusal(l), l.programs[stage], i));
      }
    }
  CHECK(kinds.size() >= 17);
}

TEST_CASE("two live buffers on the same bytes are refused even when their accesses are in order") {
  Lowered l = build(tiny_plan({}, 1));
  Program& p = l.programs[0];
  // The two largest transients that the forward pass writes and the backward pass reads.
  std::vector<BufferId> kept;
  for (BufferId b = 0; b < static_cast<BufferId>(p.buffers.size()); ++b)
    if (p.buffers[b].name.find("gate_up") != std::string::npos) kept.push_back(b);
  REQUIRE(kept.size() == 4);
  l.layouts[0].offset[kept[0]] = l.layouts[0].offset[kept[1]];
  const std::string message = refusal(l);
  CHECK(message.find("whose bytes now belong to") != std::string::npos);
  CHECK(message.find(p.buffers[kept[0]].name) != std::string::npos);
}

TEST_CASE("a buffer that is read before it is written is refused") {
  Lowered l = build(tiny_plan({}, 1));
  Program& p = l.programs[0];
  const auto rope = std::find_if(p.instrs.begin(), p.instrs.end(), [](const Instr& i) { return std::holds_alternative<Rope>(i.op); });
  std::swap(*rope, *(rope - 1));  // before the GEMM that writes qkv
  const std::string message = refusal(l);
  CHECK((message.find("reads 'L0.qkv#0'") != std::string::npos));
}

TEST_CASE("buffers outside their arena or off their alignment are refused") {
  const Lowered built = build(tiny_plan({}, 1));
  for (const std::int64_t offset : {std::int64_t{-256}, std::int64_t{100}, built.layouts[0].device_arena.value}) {
    Lowered l = built;
    l.layouts[0].offset.back() = {offset};
    CHECK(refusal(l).find(l.programs[0].buffers.back().name) != std::string::npos);
  }
  Lowered l = built;
  l.layouts[0].offset.pop_back();
  CHECK(!refusal(l).empty());
}

TEST_CASE("collectives between stages in different orders are refused and named") {
  Strategy s;
  s.pp = 2;
  Plan plan = tiny_plan(s, 2);
  plan.model.tie_word_embeddings = true;
  const Lowered built = build(plan);
  Lowered l = built;
  Program& p = l.programs[1];
  for (InstrId i = 0; i < static_cast<InstrId>(p.instrs.size()); ++i)
    if (auto* c = std::get_if<Collective>(&p.instrs[i].op); c && c->axis == Axis::embedding) {
      c->kind = Collective::Kind::broadcast;
      CHECK(names(refusal(l), p, i));
      c->axis = Axis::tp;
      CHECK(refusal(l).find("takes no part in it") != std::string::npos);
    }
}

TEST_CASE("describe says what, where and for which micro-batch") {
  const Lowered l = pipeline(2);
  const InstrId send = sends_of(l.programs[0])[1];
  CHECK(describe(l.programs[0], send) ==
        "stage 0 #" + std::to_string(send) + " send 12.0 KiB to stage 1 (mb 1, forward, down)");
}
