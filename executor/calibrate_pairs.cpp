#include "executor/calibrate_pairs.h"

#include <algorithm>
#include <chrono>
#include <random>
#include <span>
#include <thread>

#include "costmodel/error.h"
#include "executor/bf16.h"
#include "executor/communicator.h"
#include "executor/rank.h"
#include "executor/statistics.h"
#include "planner/layout.h"
#include "planner/verify.h"

namespace llmplan {
namespace {

constexpr int kRuns = 16;      // of each op, alone and again beside the other
constexpr int kExecutions = 4; // the first is not counted: libraries load, connections open

// Random numbers: products of constants run faster than those of a model.
void fill(Rank& rank, Bytes offset, Bytes size) {
  static const std::vector<std::uint16_t> noise = [] {
    std::vector<std::uint16_t> values(std::size_t{1} << 20);
    std::minstd_rand random(1);
    for (auto& v : values) v = to_bf16(static_cast<float>(random() % 2001) / 1000 - 1);
    return values;
  }();
  const auto bytes = std::as_bytes(std::span(noise));
  const auto piece = static_cast<std::int64_t>(bytes.size());
  for (std::int64_t at = 0; at < size.value; at += piece)
    rank.write(offset + Bytes{at}, bytes.first(static_cast<std::size_t>(std::min(piece, size.value - at))));
}

double overlap(const Span& a, const Span& b) {
  return std::max(0.0, std::min(a.finish, b.finish).value - std::max(a.start, b.start).value);
}

}  // namespace

double seconds_alone(const Program& p, const Timeline& t, InstrId instr, const std::vector<Contention>& contention) {
  const auto n = static_cast<std::size_t>(instr);
  const Span& own = t[n];
  double seconds = (own.finish - own.start).value;
  if (contention.empty()) return seconds;
  struct Beside { Span span; double slowdown; };
  std::vector<Beside> beside;
  std::vector<double> ends{own.start.value, own.finish.value};
  for (std::size_t i = 0; i < t.size(); ++i) {
    if (p.instrs[i].stream == p.instrs[n].stream || overlap(own, t[i]) <= 0) continue;
    beside.push_back({t[i], slowdown(contention, class_of(p.instrs[n].op), class_of(p.instrs[i].op))});
    for (const Seconds end : {t[i].start, t[i].finish})
      if (end > own.start && end < own.finish) ends.push_back(end.value);
  }
  std::sort(ends.begin(), ends.end());
  for (std::size_t k = 0; k + 1 < ends.size(); ++k) {  // between two ends the same ops run
    double longer = 1;
    const Span part{{ends[k]}, {ends[k + 1]}};
    for (const Beside& b : beside)
      if (overlap(part, b.span) > 0) longer *= b.slowdown;
    seconds -= overlap(part, part) * (1 - 1 / longer);
  }
  return seconds;
}

Program pair_program(const Op& first, const Op& second, int stage) {
  Program p;
  p.stage = stage;
  std::array<Instr, 2> both;
  for (int k = 0; k < 2; ++k) {
    Instr& in = both[static_cast<std::size_t>(k)];
    in.op = k == 0 ? first : second;
    in.stream = k == 0 ? Stream::compute : class_of(in.op) == OpClass::transfer ? Stream::down : Stream::comm;
    const OperandSizes sizes = operand_sizes(in.op);
    const auto operands = [&](const std::vector<Bytes>& of, std::vector<Ref>& refs) {
      for (Bytes size : of) {
        refs.push_back({static_cast<BufferId>(p.buffers.size()), {}, size});
        p.buffers.push_back({"operand", size, DType::bf16, Space::device, true, Category::buffers});
      }
    };
    operands(sizes.reads, in.reads);
    operands(sizes.writes, in.writes);
  }
  const auto last = [&] { return static_cast<InstrId>(p.instrs.size()) - 1; };
  for (const Instr& in : both) {
    const InstrId before = last();
    for (int i = 0; i < kRuns; ++i) p.instrs.push_back(in);
    if (before >= 0) p.instrs[static_cast<std::size_t>(before) + 1].waits = {before};
  }
  const InstrId alone = last();
  // Issued by turns, so that neither stream runs dry before the host gets to it.
  for (int i = 0; i < kRuns; ++i)
    for (const Instr& in : both) p.instrs.push_back(in);
  p.instrs[static_cast<std::size_t>(alone) + 1].waits = {alone};
  return p;
}

void PairTimes::add(const Program& p, const Timeline& t) {
  const auto at = [&](int run, int which, bool beside) {
    return static_cast<std::size_t>(beside ? 2 * kRuns + 2 * run + which : which * kRuns + run);
  };
  std::array<double, 2> alone{};
  std::array<std::vector<Span>, 2> beside;
  for (int which = 0; which < 2; ++which) {
    std::vector<double> times;
    for (int run = 1; run < kRuns; ++run) {  // the first may wait for the other ranks
      const Span& s = t[at(run, which, false)];
      times.push_back((s.finish - s.start).value);
    }
    alone[static_cast<std::size_t>(which)] = quantile(times, 0.5);
    for (int run = 0; run < kRuns; ++run) beside[static_cast<std::size_t>(which)].push_back(t[at(run, which, true)]);
  }
  for (std::size_t which : {0, 1}) {
    const OpClass of = class_of(p.instrs[at(0, static_cast<int>(which), false)].op);
    const OpClass other = class_of(p.instrs[at(0, static_cast<int>(1 - which), false)].op);
    Sum& sum = sums_[static_cast<std::size_t>(of)][static_cast<std::size_t>(other)];
    for (const Span& s : beside[which]) {
      double together = 0;
      for (const Span& o : beside[1 - which]) together += overlap(s, o);
      if (together <= 0) continue;
      sum.beside += together;
      sum.lost += (s.finish - s.start).value - alone[which];
    }
  }
}

// An op of w seconds that runs beside another for b of its d seconds has done b/f + (d − b) = w in them, so
// f = b / (b − (d − w)), here of the sums over all runs.
std::vector<Contention> PairTimes::result() const {
  constexpr double kMost = 100;  // one stands still while the other runs
  std::vector<Contention> out;
  for (std::size_t of = 0; of < sums_.size(); ++of)
    for (std::size_t other = 0; other < sums_.size(); ++other) {
      const Sum& s = sums_[of][other];
      if (s.beside <= 0) continue;
      const double slowdown = s.beside / std::max(s.beside - s.lost, s.beside / kMost);
      out.push_back({static_cast<OpClass>(of), static_cast<OpClass>(other), std::max(1.0, slowdown)});
    }
  return out;
}

namespace {

struct Pair { Op first, second, second_of_next_stage; int dp, pp; };

std::vector<Pair> pairs_of(const CalibrationSample& s, std::int64_t gpus, DType type) {
  const std::int64_t rows = s.seq * s.micro_batch;
  const Gemm product{rows, s.ffn, s.hidden, false, true, false, type, type};
  const Add pointwise{rows * s.hidden, type};
  std::vector<Pair> pairs{{product, pointwise, pointwise, 1, 1}};
  if (gpus < 2) return pairs;
  // A layer's gradients, and an activation between stages.
  const Collective sum{Collective::Kind::all_reduce, Axis::dp, {3 * s.hidden * s.ffn * 4}, DType::fp32};
  const Bytes activation{rows * s.hidden * size_of(type)};
  for (const Op& work : {Op{product}, Op{pointwise}}) {
    pairs.push_back({work, sum, sum, static_cast<int>(gpus), 1});
    pairs.push_back({work, Send{1, activation}, Recv{0, activation}, 1, 2});
  }
  return pairs;
}

void measure(const Cluster& local, const Pair& pair, PairTimes& times) {
  Plan plan;
  plan.cluster = local;
  plan.strategy.dp = pair.dp, plan.strategy.pp = pair.pp;
  std::vector<Program> programs;
  std::vector<Layout> layouts;
  for (int stage = 0; stage < pair.pp; ++stage) {
    programs.push_back(pair_program(pair.first, stage == 0 ? pair.second : pair.second_of_next_stage, stage));
    layouts.push_back(place(programs.back()));
  }
  verify(programs, layouts);
  std::vector<RankOptions> options;
  const int world = pair.dp * pair.pp;
  for (int r = 0; r < world; ++r) {
    const Coordinates where = coordinates_of(r, 1, pair.dp, pair.pp);
    const auto stage = static_cast<std::size_t>(where.pp);
    options.push_back({where, &plan, {&programs[stage]}, layouts[stage].device_arena, layouts[stage].host_arena});
  }
  const auto ranks = make_gpu_ranks(options);
  for (int r = 0; r < world; ++r) {
    const auto stage = static_cast<std::size_t>(options[static_cast<std::size_t>(r)].where.pp);
    for (std::size_t b = 0; b < programs[stage].buffers.size(); ++b)
      fill(*ranks[static_cast<std::size_t>(r)], layouts[stage].offset[b], programs[stage].buffers[b].size);
  }
  const SampleSource no_samples;
  for (int execution = 0; execution < kExecutions; ++execution) {
    std::vector<Timeline> timelines(ranks.size());
    std::vector<std::exception_ptr> errors(ranks.size());
    {
      const auto start = std::chrono::steady_clock::now();
      std::vector<std::jthread> threads;
      for (std::size_t r = 0; r < ranks.size(); ++r)
        threads.emplace_back([&, r] {
          const auto stage = static_cast<std::size_t>(options[r].where.pp);
          try {
            timelines[r] = ranks[r]->run({&programs[stage], &layouts[stage], {}, &no_samples, 1, 1, start}, true);
          } catch (...) {
            errors[r] = std::current_exception();
          }
        });
    }
    for (auto& e : errors)
      if (e) std::rethrow_exception(e);
    if (execution == 0) continue;
    for (std::size_t r = 0; r < ranks.size(); ++r)
      times.add(programs[static_cast<std::size_t>(options[r].where.pp)], timelines[r]);
  }
}

}  // namespace

void measure_pairs(const Cluster& local, const CalibrationSample& sample, const std::atomic<int>* stop, PairTimes& times) {
  for (const Pair& pair : pairs_of(sample, local.devices_per_node, usual_precision(local.device))) {
    if (stop && *stop > 0) return;
    measure(local, pair, times);
  }
}

}  // namespace llmplan
