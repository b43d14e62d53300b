#include "planner/simulate.h"

#include <doctest/doctest.h>

#include <cmath>
#include <limits>
#include <optional>

#include "costmodel/error.h"
#include "costmodel/profiles/profiles.h"
#include "planner/build.h"
#include "planner/overlap.h"
#include "planner/schedule.h"
#include "tests/planner/plans.h"
#include "tests/planner/random_program.h"

using namespace llmplan;

namespace {

struct OpTimes : TimeModel {
  // Distinct binary fractions, so that sums are exact.
  Seconds time(const Op& op) const override { return {static_cast<double>(1 + hash_of(op) % 16) / 8}; }
};
struct UnitTime : TimeModel {
  Seconds time(const Op&) const override { return {1}; }
};

// The plainest interpreter: polls every stream of every stage until nothing moves.
std::vector<Timeline> simulate_by_polling(const std::vector<Program>& programs, const TimeModel& model) {
  const std::size_t stages = programs.size();
  std::vector<Timeline> out(stages);
  std::vector<std::vector<bool>> done(stages);
  for (std::size_t s = 0; s < stages; ++s) out[s].resize(programs[s].instrs.size()), done[s].resize(programs[s].instrs.size());
  // When the head of a stream may start, and which instruction that is.
  struct Head { InstrId id; double ready; };
  const auto head = [&](std::size_t s, Stream stream) -> std::optional<Head> {
    double ready = 0;
    for (InstrId i = 0; i < static_cast<InstrId>(programs[s].instrs.size()); ++i) {
      if (programs[s].instrs[i].stream != stream) continue;
      if (done[s][i]) { ready = out[s][i].finish.value; continue; }
      for (InstrId w : programs[s].instrs[i].waits) {
        if (!done[s][w]) return {};
        ready = std::max(ready, out[s][w].finish.value);
      }
      return Head{i, ready};
    }
    return {};
  };
  const auto retire = [&](std::size_t s, InstrId i, double start) {
    out[s][i] = {{start}, {start + model.time(programs[s].instrs[i].op).value}};
    done[s][i] = true;
  };
  for (bool moved = true; moved;) {
    moved = false;
    for (std::size_t s = 0; s < stages; ++s)
      for (const Stream stream : {Stream::compute, Stream::comm, Stream::down, Stream::up}) {
        const auto h = head(s, stream);
        if (!h) continue;
        const Op& op = programs[s].instrs[h->id].op;
        if (const auto* send = std::get_if<Send>(&op)) {
          const auto peer = head(send->stage, stream);
          if (!peer) continue;
          const auto* recv = std::get_if<Recv>(&programs[send->stage].instrs[peer->id].op);
          if (!recv || recv->stage != static_cast<int>(s)) continue;
          const double start = std::max(h->ready, peer->ready);
          const double finish = start + model.time(op).value;
          out[s][h->id] = out[send->stage][peer->id] = {{start}, {finish}};
          done[s][h->id] = done[send->stage][peer->id] = true;
        } else if (std::holds_alternative<Recv>(op)) {
          continue;
        } else if (const auto* c = std::get_if<Collective>(&op);
                   c && (c->axis == Axis::world || c->axis == Axis::embedding) && stages > 1) {
          std::vector<std::size_t> who;
          for (std::size_t t = 0; t < stages; ++t)
            if (c->axis == Axis::world || t == 0 || t == stages - 1) who.push_back(t);
          double start = 0;
          bool all = true;
          for (std::size_t t : who) {
            const auto other = head(t, stream);
            const auto* d = other ? std::get_if<Collective>(&programs[t].instrs[other->id].op) : nullptr;
            all = all && d && d->axis == c->axis;
            if (all) start = std::max(start, other->ready);
          }
          if (!all) continue;
          for (std::size_t t : who) retire(t, head(t, stream)->id, start);
        } else {
          retire(s, h->id, h->ready);
        }
        moved = true;
      }
  }
  return out;
}

// A stage whose only stream is `ops` on compute.
Program compute_only(std::vector<Op> ops, int stage = 0) {
  Program p;
  p.stage = stage;
  for (const Op& op : ops) p.instrs.push_back(Instr{op, Stream::compute, {}, {}, {}});
  return p;
}
Op work(std::int64_t seconds) { return Add{seconds, DType::fp32}; }

struct Cores : TimeModel {  // `cores` shared by everything
  int cores = 1;
  Seconds time(const Op& op) const override { return {static_cast<double>(std::get<Add>(op).elements)}; }
  double speed(const Op&, const std::vector<const Op*>& active) const override {
    return std::min(1.0, cores / static_cast<double>(active.size()));
  }
  bool one_machine() const override { return true; }
};

}  // namespace

TEST_CASE("the event-driven timeline is the polled one, to the bit, for every strategy of the grid") {
  for (const Strategy& s : strategy_grid()) {
    if (s.pp == 1 && s.dp == 1) continue;
    CAPTURE(describe(s));
    Plan plan = tiny_plan(s, 3);
    plan.model.tie_word_embeddings = s.tp == 2;
    const Lowered l = build(plan);
    const Simulation run = simulate(l.programs, OpTimes{});
    REQUIRE(run.deadlock.empty());
    const auto truth = simulate_by_polling(l.programs, OpTimes{});
    double step = 0;
    int different = 0;
    for (std::size_t stage = 0; stage < truth.size(); ++stage)
      for (std::size_t i = 0; i < truth[stage].size(); ++i) {
        different += run.stages[stage][i].start != truth[stage][i].start || run.stages[stage][i].finish != truth[stage][i].finish;
        step = std::max(step, truth[stage][i].finish.value);
      }
    CHECK(different == 0);
    CHECK(run.step.value == step);
  }
}

TEST_CASE("1F1B and GPipe take (m + p - 1) slots of forward and backward when transfers are free") {
  // One op per pass instead of a layer's 30: what remains is the schedule.
  struct PassTime : TimeModel {
    Seconds time(const Op& op) const override {
      const auto* add = std::get_if<Add>(&op);
      return {add ? static_cast<double>(add->elements) : 0.0};
    }
  };
  for (const Schedule schedule : {Schedule::gpipe, Schedule::one_f_one_b})
    for (const std::int64_t stages : {1, 2, 4, 8})
      for (const std::int64_t m : {1, 3, 8, 16}) {
        std::vector<Program> programs;
        for (int s = 0; s < stages; ++s) {
          Program p;
          p.stage = s;
          p.buffers.resize(4 * m);
          const auto emit = [&](Op op, std::vector<Ref> reads, std::vector<Ref> writes) {
            p.instrs.push_back(Instr{op, Stream::compute, std::move(reads), std::move(writes), {}});
          };
          const auto ref = [&](std::int64_t b) { p.buffers[b].size = 4_B; return Ref{static_cast<BufferId>(b), {}, 4_B}; };
          for (const Slot& slot : compute_order(schedule, s, static_cast<int>(stages), m)) {
            const Ref x = ref(4 * slot.micro_batch), y = ref(4 * slot.micro_batch + 1);
            const Ref dy = ref(4 * slot.micro_batch + 2), dx = ref(4 * slot.micro_batch + 3);
            if (slot.pass == Slot::Pass::forward) {
              if (s > 0) emit(Recv{s - 1, 4_B}, {}, {x});
              emit(Add{1, DType::fp32}, {x}, {y});
              if (s + 1 < stages) emit(Send{s + 1, 4_B}, {y}, {});
            } else {
              if (s + 1 < stages) emit(Recv{s + 1, 4_B}, {}, {dy});
              emit(Add{2, DType::fp32}, {dy, x, y}, {dx});
              if (s > 0) emit(Send{s - 1, 4_B}, {dx}, {});
            }
          }
          overlap(p);
          programs.push_back(p);
        }
        const Simulation run = simulate(programs, PassTime{});
        CHECK(run.deadlock.empty());
        CHECK(run.step.value == 3.0 * static_cast<double>(m + stages - 1));  // Narayanan et al. 2021, §2.2
      }
}

TEST_CASE("streams overlap and waits hold") {
  Program p = compute_only({work(3), work(2), work(1)});
  p.instrs[1].stream = Stream::comm;
  p.instrs[2].waits = {1};
  struct T : TimeModel {
    Seconds time(const Op& op) const override { return {static_cast<double>(std::get<Add>(op).elements)}; }
  };
  Simulation run = simulate({p}, T{});
  CHECK(run.step.value == 4);
  p.instrs[1].op = work(5);
  run = simulate({p}, T{});
  CHECK(run.stages[0][2].start.value == 5);
  CHECK(run.step.value == 6);
}

TEST_CASE("ops that share a core share its time: work is conserved") {
  Cores one;
  // Alone until 1, then halves: 4 more units of work for the first and 2 for the second.
  Simulation run = simulate({compute_only({work(5)}), compute_only({work(0), work(2)}, 1)}, one);
  CHECK(run.stages[1][1].finish.value == 4);
  CHECK(run.step.value == 7);
  Cores two;
  two.cores = 2;
  CHECK(simulate({compute_only({work(5)}), compute_only({work(2)}, 1)}, two).step.value == 5);
  // Any number of stages on one core: the sum of all work, whatever the order.
  for (int stages = 1; stages <= 6; ++stages) {
    std::vector<Program> programs;
    double total = 0;
    for (int s = 0; s < stages; ++s) {
      programs.push_back(compute_only({work(1 + s % 3), work(2 + s), work(1)}, s));
      total += 4 + s % 3 + s;
    }
    CHECK(simulate(programs, one).step.value == doctest::Approx(total).epsilon(1e-12));  // rounding of thirds
  }
}

TEST_CASE("a slowdown ends when its cause does, and ends early for what was slowed") {
  struct BesideComm : TimeModel {  // compute runs at half speed while a collective does
    Seconds time(const Op& op) const override {
      const auto* add = std::get_if<Add>(&op);
      return {add ? static_cast<double>(add->elements) : 4.0};
    }
    double speed(const Op& op, const std::vector<const Op*>& active) const override {
      return active.size() > 1 && std::holds_alternative<Add>(op) ? 0.5 : 1;
    }
  };
  Program p = compute_only({work(10), Collective{Collective::Kind::all_reduce, Axis::dp, 4_B, DType::fp32}});
  p.instrs[1].stream = Stream::comm;
  const Simulation run = simulate({p}, BesideComm{});
  CHECK(run.stages[0][1].finish.value == 4);
  CHECK(run.step.value == 12);  // 4 s at half speed, then 8 s of work left
  // Each stage has a device of its own: another stage's collective slows nobody.
  Program q = compute_only({work(10)}, 1);
  CHECK(simulate({p, q}, BesideComm{}).stages[1][0].finish.value == 10);
}

TEST_CASE("a deadlock names what is stuck and why") {
  Program a = compute_only({Send{1, 4_B}, Recv{1, 4_B}}), b = compute_only({Send{0, 4_B}, Recv{0, 4_B}}, 1);
  Simulation run = simulate({a, b}, UnitTime{});
  CHECK(run.deadlock.find("stage 0 #0 send 4 B to stage 1") != std::string::npos);
  CHECK(run.deadlock.find("stage 1 #0 send 4 B to stage 0") != std::string::npos);

  Program c = compute_only({work(1), Recv{1, 4_B}}), d = compute_only({work(1)}, 1);
  run = simulate({c, d}, UnitTime{});
  CHECK(run.deadlock == "stage 0 #1 recv 4 B from stage 1 (forward, compute): has no partner");

  Program e = compute_only({work(1), work(1)});
  e.instrs[0].waits = {1};
  run = simulate({e}, UnitTime{});
  CHECK(run.deadlock.find("#0 add (forward, compute): waits for #1") != std::string::npos);

  Program f = compute_only({work(1)});
  f.instrs[0].waits = {7};
  CHECK(!simulate({f}, UnitTime{}).deadlock.empty());
}

TEST_CASE("on one machine with fewer cores than ranks, two stages take turns") {
  Strategy s;
  s.pp = 2;
  Plan two = tiny_plan(s, 4), one = two;
  one.cluster = cpu_cluster(1), two.cluster = cpu_cluster(2);
  const std::vector<Program> programs = build(two).programs;
  const double shared = simulate(programs, *time_model(one)).step.value;
  double compute = 0;
  for (const Program& p : programs)
    for (const Instr& i : p.instrs)
      if (!is_transfer(i.op)) compute += time_model(one)->time(i.op).value;
  CHECK(shared >= compute);
  CHECK(simulate(programs, *time_model(two)).step.value < shared);
}

TEST_CASE("an operation without a finite time is refused, not waited for") {
  struct Never : TimeModel {
    Seconds time(const Op& op) const override {
      return {std::holds_alternative<Add>(op) ? std::numeric_limits<double>::infinity() : 1.0};
    }
  };
  Strategy s;
  s.pp = 2;  // a stage ends in an Add
  CHECK_THROWS_AS(simulate(build(tiny_plan(s, 4)).programs, Never{}), Error);
}

namespace {

Device contended(double product_beside_sum, double sum_beside_product) {
  Device d = read_device("h100-80g-sxm");
  d.contention = {{OpClass::matrix, OpClass::collective, product_beside_sum}, {OpClass::collective, OpClass::matrix, sum_beside_product},
                  {OpClass::pointwise, OpClass::collective, product_beside_sum}, {OpClass::matrix, OpClass::transfer, product_beside_sum}};
  return d;
}

// Two queues that never wait for each other, advanced from one end of an op to the next.
double last_end(std::vector<double> first, std::vector<double> second, double slow_first, double slow_second) {
  double now = 0;
  std::size_t i = 0, j = 0;
  while (i < first.size() || j < second.size()) {
    const bool both = i < first.size() && j < second.size();
    const double f = both ? slow_first : 1, g = both ? slow_second : 1;
    const double until_first = i < first.size() ? first[i] * f : INFINITY, until_second = j < second.size() ? second[j] * g : INFINITY;
    const double step = std::min(until_first, until_second);
    now += step;
    if (i < first.size()) first[i] = until_first == step ? 0 : first[i] - step / f;
    if (j < second.size()) second[j] = until_second == step ? 0 : second[j] - step / g;
    if (i < first.size() && first[i] == 0) ++i;
    if (j < second.size() && second[j] == 0) ++j;
  }
  return now;
}

}  // namespace

TEST_CASE("a factor of 1 between ops side by side leaves every instant of a step where it was") {
  Strategy s;
  s.dp = s.pp = s.tp = 2;
  Plan plan = tiny_plan(s, 4);
  plan.cluster = read_cluster("8xh100-80g-sxm");
  const Lowered lowered = build(plan);
  const Simulation before = simulate(lowered.programs, *time_model(plan));
  plan.cluster.device = contended(1, 1);
  const Simulation after = simulate(lowered.programs, *time_model(plan));
  CHECK(before.step == after.step);
  for (std::size_t i = 0; i < before.stages.size(); ++i)
    for (std::size_t k = 0; k < before.stages[i].size(); ++k) {
      CHECK(before.stages[i][k].start == after.stages[i][k].start);
      CHECK(before.stages[i][k].finish == after.stages[i][k].finish);
    }
  plan.cluster.device = contended(1.5, 1.5);
  CHECK(simulate(lowered.programs, *time_model(plan)).step > before.step);
}

TEST_CASE("products slow down for exactly as long as a collective runs beside them, and the other way round") {
  Plan plan;
  plan.strategy.dp = 8;
  plan.cluster = read_cluster("8xh100-80g-sxm");
  for (const auto& [f, g] : {std::pair{1.0, 1.0}, {1.25, 1.0}, {1.0, 1.75}, {1.5, 2.0}, {3.0, 1.125}}) {
    plan.cluster.device = contended(f, g);
    const auto model = time_model(plan);
    for (int products = 1; products < 5; ++products)
      for (int sums = 0; sums < 4; ++sums) {
        Program p;
        std::vector<double> first, second;
        const auto emit = [&](const Op& op, Stream stream, std::vector<double>& times) {
          Instr in;
          in.op = op, in.stream = stream;
          p.instrs.push_back(in);
          times.push_back(model->time(op).value);
        };
        for (int i = 0; i < products; ++i)
          emit(Gemm{4096, std::int64_t{4096} << i, 4096, false, true, false, DType::bf16, DType::bf16}, Stream::compute, first);
        for (int i = 0; i < sums; ++i)
          emit(Collective{Collective::Kind::all_reduce, Axis::dp, {std::int64_t{48 << 20} * (i + 1)}, DType::fp32}, Stream::comm, second);
        CHECK(simulate({p}, *model).step.value == doctest::Approx(last_end(first, second, f, g)).epsilon(1e-12));
      }
  }
}
