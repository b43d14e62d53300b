// All ranks of a plan: how they are made, and how a program runs on them.
#include "executor/ranks.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <set>
#include <thread>

#include "costmodel/error.h"
#include "costmodel/estimate.h"
#include "executor/gpu.h"
#include "executor/nvml.h"
#include "executor/memory.h"
#include "executor/ranks_body.h"
#include "executor/staged_comm.h"

namespace llmplan {
namespace {

using Clock = std::chrono::steady_clock;

// Both programs of a stage use the same persistent bytes; else one would overwrite the other's state.
void require_shared(const Program& a, const Layout& la, const Program& b, const Layout& lb) {
  for (std::size_t i = 0; i < a.buffers.size() && a.buffers[i].persistent; ++i) {
    bool same = i < b.buffers.size() && b.buffers[i].persistent && a.buffers[i].name == b.buffers[i].name &&
                a.buffers[i].size == b.buffers[i].size && la.offset[i] == lb.offset[i];
    if (!same)
      throw Error("E0320", Exit::bug,
                  fmt::format("stage {}: training and evaluation place '{}' differently", a.stage, a.buffers[i].name),
                  "please report this plan");
  }
}

}  // namespace

Ranks::Body::Body(const Plan& p, const std::atomic<int>* s, Placement placed, const Elsewhere& others)
    : plan(p), stop(s), transport(others.transport), placement(placed), share(others.share),
      train(build(p, Purpose::train)), eval(build(p, Purpose::evaluate)),
      world(static_cast<int>(p.strategy.tp), static_cast<int>(p.strategy.dp), static_cast<int>(p.strategy.pp)) {
  for (std::size_t i = 0; i < train.programs.size(); ++i)
    require_shared(train.programs[i], train.layouts[i], eval.programs[i], eval.layouts[i]);
  list_tensors();
  std::vector<RankOptions> options;
  ranks.resize(static_cast<std::size_t>(world.size()));
  for (int r = 0; r < world.size(); ++r) {
    auto stage = static_cast<std::size_t>(world.coordinates(r).pp);
    options.push_back({world.coordinates(r), &plan, {&train.programs[stage], &eval.programs[stage]}, predicted(r),
                       std::max(train.layouts[stage].host_arena, eval.layouts[stage].host_arena)});
  }
  if (transport) ranks[static_cast<std::size_t>(held())] = make_own(options[static_cast<std::size_t>(held())], others);
  else if (!plan.cluster.device.cpu) ranks = make_gpu_ranks(options);
  else ranks = placement == Placement::processes ? make_process_ranks(options, world) : make_cpu_ranks(options, world);
  timelines.resize(ranks.size());
  for (int r = 0; r < world.size(); ++r)
    if (here(r)) fill_constants(r);
  crew = std::make_unique<Crew>(transport ? 1 : world.size());
}

// The rank of a process that the transport started.
std::unique_ptr<Rank> Ranks::Body::make_own(const RankOptions& o, const Elsewhere& others) {
  if (plan.cluster.device.cpu) {
    const int cores = std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
    return make_cpu_rank(o, staged_communicator(*transport, o.where), std::max(1, cores / std::max(1, others.share)));
  }
  return make_gpu_rank(o, others.local, [this](std::string id) { return broadcast(*transport, std::move(id)); });
}

void Ranks::Body::run(const std::function<void(int)>& job) {
  auto stop_now = [this] { return stop && *stop >= 2; };
  try {
    crew->run(job, [&] {
      if (!stop_now()) return;
      for (auto& r : ranks)
        if (r) r->cancel();
      world.abort("stopped at once");
      if (transport) transport->stop("stopped at once");
    });
  } catch (const Error& e) {
    if (e.code != "E0601" || !stop_now()) throw;
    throw Error("E0602", Exit::rank_lost, "stopped at once, in the middle of a step",
                "nothing was saved since the last checkpoint; --resume continues from there");
  }
}

std::array<double, 3> Ranks::Body::execute_all(const Lowered& what, const StepScalars& step, const SampleSource& samples,
                                               std::int64_t samples_per_rank, bool timed) {
  const auto start = Clock::now();
  run([&](int member) {
    const int r = transport ? held() : member;
    auto stage = stage_of(r);
    Timeline t = ranks[static_cast<std::size_t>(r)]->run(
        {&what.programs[stage], &what.layouts[stage], step, &samples, plan.strategy.micro_batch, samples_per_rank, start}, timed);
    if (timed) timelines[static_cast<std::size_t>(r)] = std::move(t);
  });
  std::array<double, 3> stats;
  const int r = held();  // all ranks have the world's sums
  ranks[static_cast<std::size_t>(r)]->read(address(r, program(r).stats, 0), std::as_writable_bytes(std::span(stats)));
  return stats;
}

Ranks::Ranks(const Plan& plan, const std::atomic<int>* stop, Placement placement)
    : body_(std::make_unique<Body>(plan, stop, placement, Body::Elsewhere{})) {}
Ranks::Ranks(const Plan& plan, const std::atomic<int>* stop, Transport& transport, int local, int share)
    : body_(std::make_unique<Body>(plan, stop, Placement::threads, Body::Elsewhere{&transport, local, share})) {}
Ranks::~Ranks() = default;

RankSetup Ranks::setup() const {
  const Body& b = *body_;
  RankSetup s;
  s.ranks = size();
  s.cpu = b.plan.cluster.device.cpu;
  s.ranks_on_devices = b.transport ? b.share : s.ranks;
  if (s.cpu) {
    s.device = cpu_name();
    s.devices = std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
    if (s.ranks > 1)
      s.communicator = b.transport ? b.transport->name() : b.placement == Placement::processes ? "processes" : "threads";
    return s;
  }
  std::set<std::string> cards;
  for (auto& rank : b.ranks)
    if (rank) cards.insert(rank->gpu());
  s.devices = b.transport ? b.share : static_cast<int>(cards.size());  // a process that has one rank has one card
  if (s.ranks > 1) s.communicator = s.shares_card() ? "shared card" : "nccl";
  for (const GpuInfo& gpu : gpus())
    if (cards.contains(gpu.bus)) s.device = gpu.name;
  return s;
}

int Ranks::size() const { return body_->world.size(); }
const Lowered& Ranks::programs() const { return body_->train; }
Bytes Ranks::predicted_arena(int rank) const { return body_->predicted(rank); }
Bytes Ranks::allocated_arena(int rank) const { return body_->here(rank) ? body_->ranks[static_cast<std::size_t>(rank)]->arena() : Bytes{}; }
bool Ranks::first() const { return body_->here(0); }
std::string Ranks::attention() const { return first() ? body_->ranks.front()->attention() : ""; }
Transport* Ranks::transport() const { return body_->transport; }
Bytes Ranks::memory() const {
  std::set<std::string> cards;
  for (auto& rank : body_->ranks)
    if (rank && !rank->gpu().empty()) cards.insert(rank->gpu());
  if (!cards.empty()) return gpu_memory(cards);
  Bytes sum = process_peak();
  for (auto& rank : body_->ranks)
    if (rank) sum += rank->beside();
  return sum;
}

void Ranks::collect_timelines(bool all) {
  Body& b = *body_;
  if (!b.transport) return;
  const int per_stage = b.tp() * b.dp();
  for (int r = 0; r < size(); r += all ? 1 : per_stage) {
    Timeline& t = b.timelines[static_cast<std::size_t>(r)];
    std::int64_t n = static_cast<std::int64_t>(t.size());
    fetch(*b.transport, r, std::as_writable_bytes(std::span(&n, 1)));
    t.resize(static_cast<std::size_t>(n));
    fetch(*b.transport, r, std::as_writable_bytes(std::span(t)));
  }
}

const Timeline& Ranks::timeline(int rank) const { return body_->timelines[static_cast<std::size_t>(rank)]; }

StepResult Ranks::step(const StepScalars& scalars, const SampleSource& samples, bool timed) {
  Body& b = *body_;
  auto start = Clock::now();
  const Workload& w = b.plan.workload;
  const auto [squares, loss, counted] = b.execute_all(b.train, scalars, samples, w.global_batch / b.plan.strategy.dp, timed);
  StepResult result;
  result.skipped = loss_scaling().apply == 0;
  result.time = {std::chrono::duration<double>(Clock::now() - start).count()};
  result.counted = static_cast<std::int64_t>(counted);
  result.loss = loss / counted;
  // Gradients are divided by all tokens of the batch, and the norm is of the mean over those that count.
  double divisor = static_cast<double>(w.global_batch) * static_cast<double>(sequence_length(b.plan.model, w));
  result.grad_norm = std::sqrt(squares) * divisor / counted;
  return result;
}

LossScaling Ranks::loss_scaling() const {
  const Body& b = *body_;
  LossScaling scaling{.scale = 1};
  const int r = b.held();  // all ranks agree
  if (const BufferId id = b.program(r).loss_scaling; id >= 0)
    b.ranks[static_cast<std::size_t>(r)]->read(b.address(r, id, 0), std::as_writable_bytes(std::span(&scaling, 1)));
  return scaling;
}

void Ranks::set_loss_scaling(const LossScaling& scaling) {
  for (int r = 0; r < size(); ++r) body_->put_loss_scaling(r, scaling);
}

double Ranks::evaluate(std::int64_t batches, const SampleSource& samples) {
  Body& b = *body_;
  const std::int64_t per_rank = b.plan.strategy.micro_batch, per_batch = per_rank * b.plan.strategy.dp;
  double loss = 0, counted = 0;
  for (std::int64_t batch = 0; batch < batches; ++batch) {
    SampleSource shifted = [&](std::int64_t i, std::span<std::int32_t> ids, std::span<std::int32_t> targets) {
      samples(batch * per_batch + i, ids, targets);
    };
    const auto stats = b.execute_all(b.eval, {}, shifted, per_rank, false);
    loss += stats[1];
    counted += stats[2];
  }
  return counted > 0 ? loss / counted : -1;
}

}  // namespace llmplan
