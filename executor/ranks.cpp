#include "executor/ranks.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>
#include <functional>
#include <map>
#include <mutex>
#include <set>
#include <thread>

#include "costmodel/error.h"
#include "costmodel/estimate.h"
#include "executor/cpu/convert.h"
#include "executor/crew.h"
#include "executor/gpu.h"
#include "executor/init.h"
#include "executor/local_comm.h"
#include "executor/nvml.h"
#include "executor/memory.h"
#include "executor/rank.h"
#include "executor/rope_table.h"
#include "executor/shard.h"
#include "executor/staged_comm.h"
#include "executor/transport.h"

namespace llmplan {
namespace {

using Clock = std::chrono::steady_clock;
constexpr std::int64_t kBlock = std::int64_t{1} << 20;  // elements that pass through a buffer at once

// Runs body(i) for i < n on all cores.
void in_parallel(std::size_t n, const std::function<void(std::size_t)>& body) {
  std::atomic<std::size_t> next = 0;
  auto work = [&] {
    for (std::size_t i; (i = next++) < n;) body(i);
  };
  std::vector<std::jthread> helpers;
  for (unsigned t = 1; t < std::thread::hardware_concurrency(); ++t) helpers.emplace_back(work);
  work();
}

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

struct Ranks::Body {
  Plan plan;
  const std::atomic<int>* stop;
  Transport* transport;  // null: all ranks are here
  Placement placement;
  int share;             // of them, how many are on this machine, where there is a transport
  Lowered train, eval;
  LocalWorld world;
  std::vector<std::unique_ptr<Rank>> ranks;
  std::vector<Timeline> timelines;
  std::vector<FloatTensor> tensors;
  struct Place { int stage; const Param* param; };
  std::map<std::string, std::vector<Place>> places;  // the first is the one to read
  std::unique_ptr<Crew> crew;

  struct Elsewhere { Transport* transport = nullptr; int local = 0, share = 1; };

  Body(const Plan& p, const std::atomic<int>* s, Placement placed, const Elsewhere& others)
      : plan(p), stop(s), transport(others.transport), placement(placed), share(others.share), train(build(p, Purpose::train)), eval(build(p, Purpose::evaluate)),
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
  std::unique_ptr<Rank> make_own(const RankOptions& o, const Elsewhere& others) {
    if (plan.cluster.device.cpu) {
      const int cores = std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
      return make_cpu_rank(o, staged_communicator(*transport, o.where), std::max(1, cores / std::max(1, others.share)));
    }
    return make_gpu_rank(o, others.local, [this](std::string id) { return broadcast(*transport, std::move(id)); });
  }
  bool here(int rank) const { return !transport || transport->rank() == rank; }
  int held() const { return transport ? transport->rank() : 0; }  // the first that is here

  // Some rank here has this tp position of this stage.
  bool holds(int stage, int tp_rank) const {
    const Coordinates c = world.coordinates(held());
    return !transport || (c.pp == stage && c.tp == tp_rank);
  }

  int tp() const { return static_cast<int>(plan.strategy.tp); }
  int dp() const { return static_cast<int>(plan.strategy.dp); }
  int rank_at(int tp_rank, int dp_rank, int pp_rank) const { return tp_rank + tp() * (dp_rank + dp() * pp_rank); }
  std::size_t stage_of(int rank) const { return static_cast<std::size_t>(world.coordinates(rank).pp); }
  const Program& program(int rank) const { return train.programs[stage_of(rank)]; }
  Bytes predicted(int rank) const {
    auto s = stage_of(rank);
    return std::max(train.layouts[s].device_arena, eval.layouts[s].device_arena);
  }

  // ---- Buffers of one rank, in elements of the buffer's own type

  const Buffer& buffer(int rank, BufferId id) const { return program(rank).buffers[static_cast<std::size_t>(id)]; }
  std::int64_t elements(int rank, BufferId id) const {
    return id < 0 ? 0 : buffer(rank, id).size.value / size_of(buffer(rank, id).dtype);
  }
  Bytes address(int rank, BufferId id, std::int64_t element) const {
    return train.layouts[stage_of(rank)].offset[static_cast<std::size_t>(id)] + Bytes{element * size_of(buffer(rank, id).dtype)};
  }
  void get(int rank, BufferId id, std::int64_t first, std::span<float> out) const {
    if (here(rank)) load(rank, id, first, out);
    if (transport) fetch(*transport, rank, std::as_writable_bytes(out));
  }
  void load(int rank, BufferId id, std::int64_t first, std::span<float> out) const {
    const Rank& from = *ranks[static_cast<std::size_t>(rank)];
    const DType type = buffer(rank, id).dtype;
    if (type == DType::fp32) return from.read(address(rank, id, first), std::as_writable_bytes(out));
    std::vector<std::byte> stored(out.size() * static_cast<std::size_t>(size_of(type)));
    from.read(address(rank, id, first), stored);
    cpu::widen(type, stored.data(), out.data(), static_cast<std::int64_t>(out.size()));
  }
  void put(int rank, BufferId id, std::int64_t first, std::span<const float> in) {
    if (!here(rank)) return;
    Rank& to = *ranks[static_cast<std::size_t>(rank)];
    const DType type = buffer(rank, id).dtype;
    if (type == DType::fp32) return to.write(address(rank, id, first), std::as_bytes(in));
    std::vector<std::byte> stored(in.size() * static_cast<std::size_t>(size_of(type)));
    cpu::narrow(type, in.data(), stored.data(), static_cast<std::int64_t>(in.size()));
    to.write(address(rank, id, first), stored);
  }
  void zero(int rank, BufferId id, std::int64_t first, std::int64_t end) {
    if (first >= end) return;
    const std::vector<float> zeros(static_cast<std::size_t>(std::min(kBlock, end - first)));
    for (; first < end; first += kBlock)
      put(rank, id, first, std::span(zeros).first(static_cast<std::size_t>(std::min(kBlock, end - first))));
  }

  void put_loss_scaling(int rank, const LossScaling& scaling) {
    if (const BufferId id = program(rank).loss_scaling; id >= 0 && here(rank))
      ranks[static_cast<std::size_t>(rank)]->write(address(rank, id, 0), std::as_bytes(std::span(&scaling, 1)));
  }

  void fill_constants(int rank) {
    const Program& p = program(rank);
    for (BufferId id : {p.gradients, p.moment1, p.moment2, p.master}) zero(rank, id, 0, elements(rank, id));
    // Weights stay NaN, as the arena was filled, until somebody writes them; but AdamW reads their padding.
    std::int64_t end = 0;
    for (const Param& param : p.params) zero(rank, p.weights, end, param.begin), end = param.begin + param.elements();
    zero(rank, p.weights, end, elements(rank, p.weights));
    put_loss_scaling(rank, {.scale = plan.workload.optimizer.loss_scale});
    std::vector<float> table(static_cast<std::size_t>(elements(rank, p.rope_table)));
    if (table.empty()) return;
    fill_rope_table(plan.model, static_cast<std::int64_t>(table.size()) / plan.model.head_dim, table);
    put(rank, p.rope_table, 0, table);
  }

  // ---- Tensors of the whole model

  void list_tensors() {
    for (const Program& p : train.programs)
      for (const Param& param : p.params) {
        auto& at = places[param.name];
        if (param.counted) {
          tensors.push_back({param.name, param.full_shape});
          at.insert(at.begin(), {p.stage, &param});
        } else {
          at.push_back({p.stage, &param});
        }
      }
  }

  const std::vector<Place>& find(const std::string& name) const {
    auto found = places.find(name);
    if (found == places.end())
      throw Error("E0406", Exit::data, fmt::format("the model has no tensor '{}'", name), "use weights of the plan's model");
    return found->second;
  }

  // Calls visit(rank, element in the buffer, offset, count) for the pieces of elements [begin, begin + count)
  // of a stage's flat order as one tp position holds them. A buffer that ZeRO deals out over dp is one of
  // slices: the rank that owns a piece is visited. Of buffers that are whole everywhere, every dp rank is
  // visited, or the first only.
  template <class Visit>
  void pieces(BufferId id, int tp_rank, int stage, std::int64_t begin, std::int64_t count, bool every, Visit visit) const {
    const Program& p = train.programs[static_cast<std::size_t>(stage)];
    const int first = rank_at(tp_rank, 0, stage);
    const std::int64_t whole = elements(first, p.weights), slice = elements(first, p.moment1);
    // Gradients too: only the own slice is summed. Weights are whole everywhere, but between two steps those of the other
    // ranks' slices are the last step's: written everywhere, read where they are new.
    const bool dealt = slice < whole && !(every && id == p.weights);
    const bool own_only = elements(first, id) < whole;       // the buffer holds nothing but the slice
    if (!dealt) {
      for (int d = 0; d < (every ? dp() : 1); ++d) visit(rank_at(tp_rank, d, stage), begin, std::int64_t{0}, count);
      return;
    }
    for (std::int64_t at = begin; at < begin + count;) {
      const OwnedElement own = owner_of(at, p.buckets, whole / slice);
      const std::int64_t n = std::min(begin + count - at, own.run);
      visit(rank_at(tp_rank, static_cast<int>(own.dp_rank), stage), own_only ? own.index : at, at - begin, n);
      at += n;
    }
  }

  // Buffers that hold a state: weights also have an fp32 master where they are narrower.
  std::vector<BufferId> buffers_of(State state, int stage) const {
    const Program& p = train.programs[static_cast<std::size_t>(stage)];
    switch (state) {
      case State::weights: return p.master < 0 ? std::vector{p.weights} : std::vector{p.master, p.weights};
      case State::gradients: return {p.gradients};
      case State::moment1: return {p.moment1};
      case State::moment2: return {p.moment2};
    }
    return {};
  }

  void put_part(State state, const Place& at, int tp_rank, std::int64_t local, std::span<const float> values) {
    for (BufferId id : buffers_of(state, at.stage))
      pieces(id, tp_rank, at.stage, at.param->begin + local, static_cast<std::int64_t>(values.size()), true,
             [&](int rank, std::int64_t element, std::int64_t offset, std::int64_t n) {
               put(rank, id, element, values.subspan(static_cast<std::size_t>(offset), static_cast<std::size_t>(n)));
             });
  }

  // ---- Execution

  void run(const std::function<void(int)>& job) {
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

  // Executes one program everywhere; {Σ grad², Σ loss, tokens} of the world.
  std::array<double, 3> execute_all(const Lowered& what, const StepScalars& step, const SampleSource& samples,
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
};

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
const std::vector<FloatTensor>& Ranks::tensors() const { return body_->tensors; }

void Ranks::init(std::uint64_t seed) {
  Body& b = *body_;
  struct Job { Body::Place at; int tp; std::int64_t first; };
  std::vector<Job> jobs;
  for (const Program& p : b.train.programs)
    for (const Param& param : p.params)
      for (int tp = 0; tp < b.tp(); ++tp)
        for (std::int64_t first = 0; first < param.elements(); first += kBlock)
          if (b.holds(p.stage, tp)) jobs.push_back({{p.stage, &param}, tp, first});
  std::mutex writing;  // ranks on GPUs take one caller at a time
  in_parallel(jobs.size(), [&](std::size_t i) {
    auto& [at, tp, first] = jobs[i];
    std::vector<float> values(static_cast<std::size_t>(std::min(kBlock, at.param->elements() - first)));
    init_weights(*at.param, tp, b.plan.model.num_hidden_layers, seed, first, values);
    std::lock_guard lock(writing);
    b.put_part(State::weights, at, tp, first, values);
  });
}

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

void Ranks::read(State state, const std::string& name, std::int64_t first, std::span<float> out) const {
  const Body& b = *body_;
  auto [stage, param] = b.find(name).front();
  const BufferId id = b.buffers_of(state, stage).front();
  const std::int64_t begin = param->begin, end = first + static_cast<std::int64_t>(out.size());
  for (int tp = 0; tp < (param->tp_dim < 0 ? 1 : b.tp()); ++tp)
    for_each_run(*param, tp, first, end, [&](std::int64_t local, std::int64_t global, std::int64_t count) {
      b.pieces(id, tp, stage, begin + local, count, false, [&](int rank, std::int64_t element, std::int64_t offset, std::int64_t n) {
        b.get(rank, id, element, out.subspan(static_cast<std::size_t>(global - first + offset), static_cast<std::size_t>(n)));
      });
    });
}

std::vector<float> Ranks::read(State state, const std::string& name) const {
  std::vector<float> out(static_cast<std::size_t>(full_elements(*body_->find(name).front().param)));
  read(state, name, 0, out);
  return out;
}

void Ranks::write(State state, const std::string& name, std::int64_t first, std::span<const float> values) {
  Body& b = *body_;
  const std::int64_t end = first + static_cast<std::int64_t>(values.size());
  for (const Body::Place& at : b.find(name))
    for (int tp = 0; tp < b.tp(); ++tp) {
      const std::int64_t part = at.param->elements();
      if (first == 0)  // vocabulary padding, which no element of the whole tensor reaches
        for (std::int64_t local = 0; local < part; local += kBlock)
          b.put_part(state, at, tp, local, std::vector<float>(static_cast<std::size_t>(std::min(kBlock, part - local))));
      for_each_run(*at.param, tp, first, end, [&](std::int64_t local, std::int64_t global, std::int64_t count) {
        b.put_part(state, at, tp, local, values.subspan(static_cast<std::size_t>(global - first), static_cast<std::size_t>(count)));
      });
    }
}

std::string Ranks::first_difference() const {
  const Body& b = *body_;
  for (auto& [name, places] : b.places) {
    std::map<int, std::vector<std::byte>> expected;  // by the part of the tensor
    for (auto& [stage, param] : places)
      for (int tp = 0; tp < b.tp(); ++tp) {
        const int first = b.rank_at(tp, 0, stage);
        const BufferId id = b.program(first).weights;
        const std::int64_t width = size_of(b.buffer(first, id).dtype);
        const bool sharded = b.elements(first, b.program(first).moment1) < b.elements(first, id);
        std::vector<std::byte> bytes(static_cast<std::size_t>(param->elements() * width));
        std::string difference;
        const auto compare = [&](int rank) {
          auto [at, added] = expected.try_emplace(param->tp_dim < 0 ? 0 : tp, bytes);
          if (!added && at->second != bytes) difference = fmt::format("{} on rank {}", name, rank);
        };
        b.pieces(id, tp, stage, param->begin, param->elements(), !sharded,
                 [&](int rank, std::int64_t element, std::int64_t offset, std::int64_t n) {
                   const std::span<std::byte> out(bytes.data() + offset * width, static_cast<std::size_t>(n * width));
                   b.ranks[static_cast<std::size_t>(rank)]->read(b.address(rank, id, element), out);
                   if (!sharded) compare(rank);
                 });
        if (sharded) compare(first);
        if (!difference.empty()) return difference;
      }
  }
  return "";
}

}  // namespace llmplan
