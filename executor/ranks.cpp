#include "executor/ranks.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <condition_variable>
#include <cstring>
#include <exception>
#include <functional>
#include <map>
#include <mutex>
#include <thread>

#include "costmodel/error.h"
#include "costmodel/estimate.h"
#include "executor/arena.h"
#include "executor/cpu/cpu_backend.h"
#include "executor/init.h"
#include "executor/local_comm.h"
#include "executor/rope_table.h"
#include "executor/shard.h"

namespace llmplan {
namespace {

using Clock = std::chrono::steady_clock;

int cores() { return std::max(1, static_cast<int>(std::thread::hardware_concurrency())); }

// Runs body(i) for i < n on up to `cores` threads.
void in_parallel(std::size_t n, const std::function<void(std::size_t)>& body) {
  std::atomic<std::size_t> next = 0;
  auto work = [&] {
    for (std::size_t i; (i = next++) < n;) body(i);
  };
  std::vector<std::jthread> helpers;
  for (int t = 1; t < cores(); ++t) helpers.emplace_back(work);
  work();
}

// Threads that stay, one per rank, and do the same thing at the same time.
class Crew {
 public:
  explicit Crew(int size) : errors_(static_cast<std::size_t>(size)) {
    for (int r = 0; r < size; ++r) threads_.emplace_back([this, r] { serve(r); });
  }
  ~Crew() {
    {
      std::lock_guard lock(mutex_);
      closing_ = true;
    }
    wake_.notify_all();
    for (auto& t : threads_) t.join();
  }

  // Returns when all are done; calls `while_waiting` ten times a second until then. Throws the error
  // that a rank met by itself, rather than one that only followed from it.
  void run(const std::function<void(int)>& job, const std::function<void()>& while_waiting) {
    std::unique_lock lock(mutex_);
    job_ = &job;
    working_ = static_cast<int>(threads_.size());
    ++round_;
    wake_.notify_all();
    while (!done_.wait_for(lock, std::chrono::milliseconds(100), [&] { return working_ == 0; })) {
      lock.unlock();
      while_waiting();
      lock.lock();
    }
    job_ = nullptr;
    std::exception_ptr first, own;
    for (auto& e : errors_) {
      if (!e) continue;
      if (!first) first = e;
      if (!own && !followed(e)) own = e;
      e = nullptr;
    }
    if (first) std::rethrow_exception(own ? own : first);
  }

 private:
  static bool followed(const std::exception_ptr& e) {
    try {
      std::rethrow_exception(e);
    } catch (const Error& error) {
      return error.code == "E0601";
    } catch (...) {
      return false;
    }
  }

  void serve(int rank) {
    for (std::uint64_t seen = 0;;) {
      std::unique_lock lock(mutex_);
      wake_.wait(lock, [&] { return round_ != seen || closing_; });
      if (round_ == seen) return;
      seen = round_;
      const auto* job = job_;
      lock.unlock();
      std::exception_ptr error;
      try {
        (*job)(rank);
      } catch (...) {
        error = std::current_exception();
      }
      lock.lock();
      errors_[static_cast<std::size_t>(rank)] = error;
      if (--working_ == 0) done_.notify_all();
    }
  }

  std::mutex mutex_;
  std::condition_variable wake_, done_;
  const std::function<void(int)>* job_ = nullptr;
  std::uint64_t round_ = 0;
  int working_ = 0;
  bool closing_ = false;
  std::vector<std::exception_ptr> errors_;
  std::vector<std::thread> threads_;
};

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
  Lowered train, eval;
  LocalWorld world;
  struct Rank {
    Coordinates where;
    Arena device, host;
    std::unique_ptr<Communicator> communicator;
    std::unique_ptr<cpu::CpuBackend> backend;
    Timeline timeline;
  };
  std::vector<Rank> ranks;
  std::vector<FloatTensor> tensors;
  struct Place { int stage; const Param* param; };
  std::map<std::string, std::vector<Place>> places;  // the first is the one to read
  std::unique_ptr<Crew> crew;

  Body(const Plan& p, const std::atomic<int>* s)
      : plan(p), stop(s), train(build(p, Purpose::train)), eval(build(p, Purpose::evaluate)),
        world(static_cast<int>(p.strategy.tp), static_cast<int>(p.strategy.dp), static_cast<int>(p.strategy.pp)) {
    if (plan.workload.precision != DType::fp32)
      throw Error("E0510", Exit::environment,
                  fmt::format("the plan computes in {}, and CPUs are run in fp32", name_of(plan.workload.precision)),
                  "plan again with --precision fp32");
    for (std::size_t i = 0; i < train.programs.size(); ++i)
      require_shared(train.programs[i], train.layouts[i], eval.programs[i], eval.layouts[i]);
    list_tensors();
    const int threads = std::max(1, cores() / world.size());
    ranks.resize(static_cast<std::size_t>(world.size()));
    for (int r = 0; r < world.size(); ++r) {
      Rank& rank = ranks[static_cast<std::size_t>(r)];
      rank.where = world.coordinates(r);
      rank.device = Arena(predicted(rank.where.pp));
      auto stage = static_cast<std::size_t>(rank.where.pp);
      rank.host = Arena(std::max(train.layouts[stage].host_arena, eval.layouts[stage].host_arena));
      rank.communicator = world.communicator(r);
      rank.backend = std::make_unique<cpu::CpuBackend>(rank.where, *rank.communicator, plan.workload.optimizer, threads,
                                                       rank.device.data(), rank.host.data());
      fill_constants(rank);
    }
    crew = std::make_unique<Crew>(world.size());
  }

  Bytes predicted(int stage) const {
    auto s = static_cast<std::size_t>(stage);
    return std::max(train.layouts[s].device_arena, eval.layouts[s].device_arena);
  }

  const Program& program(const Rank& r) const { return train.programs[static_cast<std::size_t>(r.where.pp)]; }
  Rank& rank_at(int tp, int dp, int pp) {
    return ranks[static_cast<std::size_t>(tp + world_tp() * (dp + world_dp() * pp))];
  }
  int world_tp() const { return static_cast<int>(plan.strategy.tp); }
  int world_dp() const { return static_cast<int>(plan.strategy.dp); }

  template <class T>
  std::span<T> buffer(const Rank& r, BufferId id) const {
    if (id < 0) return {};
    auto& layout = train.layouts[static_cast<std::size_t>(r.where.pp)];
    auto b = static_cast<std::size_t>(id);
    return {reinterpret_cast<T*>(r.device.data() + layout.offset[b].value),
            static_cast<std::size_t>(program(r).buffers[b].size.value) / sizeof(T)};
  }

  void fill_constants(Rank& r) {
    const Program& p = program(r);
    for (BufferId id : {p.weights, p.gradients, p.moment1, p.moment2, p.master}) {
      auto values = buffer<float>(r, id);
      std::fill(values.begin(), values.end(), 0.f);
    }
    auto weights = buffer<float>(r, p.weights);
    for (const Param& param : p.params)  // but not the padding, which AdamW reads
      std::fill_n(weights.begin() + param.begin, param.elements(), NAN);
    if (auto table = buffer<float>(r, p.rope_table); !table.empty())
      fill_rope_table(plan.model, static_cast<std::int64_t>(table.size()) / plan.model.head_dim, table);
  }

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
      throw Error("E0406", Exit::data, fmt::format("the model has no tensor '{}'", name),
                  "use weights of the plan's model");
    return found->second;
  }

  // Calls visit(values, offset) for the pieces of elements [begin, begin + count) of a stage's flat
  // `state`, which one tp rank holds and ZeRO may have dealt out over dp: `values` are those in the
  // memory of the dp rank that owns them (`owner` −1) or of rank `owner` (else; all it has).
  template <class Visit>
  void pieces(State state, int tp, int pp, int owner, std::int64_t begin, std::int64_t count, Visit visit) {
    const Program& p = train.programs[static_cast<std::size_t>(pp)];
    BufferId id = state == State::weights ? p.weights : state == State::gradients ? p.gradients
                : state == State::moment1 ? p.moment1 : p.moment2;
    std::int64_t whole = p.buffers[static_cast<std::size_t>(p.weights)].size.value,
                 slice = p.buffers[static_cast<std::size_t>(p.moment1)].size.value;
    const std::int64_t per_rank = slice / static_cast<std::int64_t>(sizeof(float));  // elements
    const bool sharded = slice < whole && state != State::weights;
    for (std::int64_t at = begin; at < begin + count;) {
      std::int64_t dp = sharded ? at / per_rank : std::max(0, owner);
      std::int64_t n = sharded ? std::min(begin + count, (dp + 1) * per_rank) - at : count;
      if (owner < 0 || owner == dp) {
        auto values = buffer<float>(rank_at(tp, static_cast<int>(dp), pp), id);
        bool own_slice = sharded && state != State::gradients;  // those buffers hold the slice alone
        visit(values.subspan(static_cast<std::size_t>(own_slice ? at - dp * per_rank : at), static_cast<std::size_t>(n)),
              at - begin);
      }
      at += n;
    }
  }

  void run(const std::function<void(int)>& job) {
    auto stop_now = [this] { return stop && *stop >= 2; };
    try {
      crew->run(job, [&] {
        if (!stop_now()) return;
        for (Rank& r : ranks) r.backend->cancel();
        world.abort("stopped at once");
      });
    } catch (const Error& e) {
      if (e.code != "E0601" || !stop_now()) throw;
      throw Error("E0602", Exit::rank_lost, "stopped at once, in the middle of a step",
                  "nothing was saved since the last checkpoint; --resume continues from there");
    }
  }

  // Executes one program everywhere.
  void execute_all(const Lowered& what, const StepScalars& step, const SampleSource& samples,
                   std::int64_t samples_per_rank, bool keep_timeline) {
    const auto start = Clock::now();
    run([&](int r) {
      Rank& rank = ranks[static_cast<std::size_t>(r)];
      auto stage = static_cast<std::size_t>(rank.where.pp);
      rank.backend->begin({&what.programs[stage], &what.layouts[stage], step, &samples, plan.strategy.micro_batch,
                           samples_per_rank, start});
      Timeline timeline = execute(what.programs[stage], *rank.backend);
      if (keep_timeline) rank.timeline = std::move(timeline);
    });
  }

  std::span<double> stats() const { return buffer<double>(ranks[0], program(ranks[0]).stats); }
};

Ranks::Ranks(const Plan& plan, const std::atomic<int>* stop) : body_(std::make_unique<Body>(plan, stop)) {}
Ranks::~Ranks() = default;

int Ranks::size() const { return body_->world.size(); }
const Lowered& Ranks::programs() const { return body_->train; }
Bytes Ranks::predicted_arena(int rank) const { return body_->predicted(body_->ranks[static_cast<std::size_t>(rank)].where.pp); }
Bytes Ranks::allocated_arena(int rank) const { return body_->ranks[static_cast<std::size_t>(rank)].device.allocated(); }
const Timeline& Ranks::timeline(int rank) const { return body_->ranks[static_cast<std::size_t>(rank)].timeline; }
const std::vector<FloatTensor>& Ranks::tensors() const { return body_->tensors; }

void Ranks::init(std::uint64_t seed) {
  Body& b = *body_;
  struct Job { Body::Rank* rank; const Param* param; };
  std::vector<Job> jobs;
  for (auto& r : b.ranks)
    if (r.where.dp == 0)
      for (const Param& p : b.program(r).params) jobs.push_back({&r, &p});
  in_parallel(jobs.size(), [&](std::size_t i) {
    auto [rank, param] = jobs[i];
    auto weights = b.buffer<float>(*rank, b.program(*rank).weights);
    init_weights(*param, rank->where.tp, b.plan.model.num_hidden_layers, seed,
                 weights.subspan(static_cast<std::size_t>(param->begin), static_cast<std::size_t>(param->elements())));
  });
  for (auto& r : b.ranks) {
    if (r.where.dp == 0) continue;
    auto from = b.buffer<float>(b.rank_at(r.where.tp, 0, r.where.pp), b.program(r).weights);
    std::copy(from.begin(), from.end(), b.buffer<float>(r, b.program(r).weights).begin());
  }
}

StepResult Ranks::step(const StepScalars& scalars, const SampleSource& samples) {
  Body& b = *body_;
  auto start = Clock::now();
  const Workload& w = b.plan.workload;
  b.execute_all(b.train, scalars, samples, w.global_batch / b.plan.strategy.dp, true);
  StepResult result;
  result.time = {std::chrono::duration<double>(Clock::now() - start).count()};
  auto stats = b.stats();  // {Σ grad², Σ loss, tokens}; gradients are divided by all tokens of the batch
  result.counted = static_cast<std::int64_t>(stats[2]);
  result.loss = stats[1] / stats[2];
  double divisor = static_cast<double>(w.global_batch) * static_cast<double>(sequence_length(b.plan.model, w));
  result.grad_norm = std::sqrt(stats[0]) * divisor / stats[2];
  return result;
}

double Ranks::evaluate(std::int64_t batches, const SampleSource& samples) {
  Body& b = *body_;
  const std::int64_t per_rank = b.plan.strategy.micro_batch, per_batch = per_rank * b.plan.strategy.dp;
  double loss = 0, counted = 0;
  for (std::int64_t batch = 0; batch < batches; ++batch) {
    SampleSource shifted = [&](std::int64_t i, std::span<std::int32_t> ids, std::span<std::int32_t> targets) {
      samples(batch * per_batch + i, ids, targets);
    };
    b.execute_all(b.eval, {}, shifted, per_rank, false);
    loss += b.stats()[1];
    counted += b.stats()[2];
  }
  return counted > 0 ? loss / counted : -1;
}

void Ranks::read(State state, const std::string& name, std::int64_t first, std::span<float> out) const {
  Body& b = *body_;
  auto [stage, param] = b.find(name).front();
  const std::int64_t end = first + static_cast<std::int64_t>(out.size());
  for (int tp = 0; tp < (param->tp_dim < 0 ? 1 : b.world_tp()); ++tp)
    for_each_run(*param, tp, first, end, [&](std::int64_t local, std::int64_t global, std::int64_t count) {
      b.pieces(state, tp, stage, -1, param->begin + local, count, [&](std::span<float> values, std::int64_t offset) {
        std::copy(values.begin(), values.end(), out.begin() + global - first + offset);
      });
    });
}

std::vector<float> Ranks::read(State state, const std::string& name) const {
  std::vector<float> out(static_cast<std::size_t>(full_elements(*body_->find(name).front().param)));
  read(state, name, 0, out);
  return out;
}

std::string Ranks::first_difference() const {
  Body& b = *body_;
  for (auto& [name, places] : b.places) {
    const std::vector<float> expected = read(State::weights, name);
    for (auto [stage, param] : places)
      for (int dp = 0; dp < b.world_dp(); ++dp)
        for (int tp = 0; tp < b.world_tp(); ++tp) {
          auto weights = b.buffer<float>(b.rank_at(tp, dp, stage), b.train.programs[static_cast<std::size_t>(stage)].weights);
          bool same = true;
          for_each_run(*param, tp, [&](std::int64_t local, std::int64_t global, std::int64_t count) {
            same = same && std::memcmp(&weights[static_cast<std::size_t>(param->begin + local)],
                                       &expected[static_cast<std::size_t>(global)],
                                       static_cast<std::size_t>(count) * sizeof(float)) == 0;
          });
          if (!same) return fmt::format("{} at tp {} dp {} stage {}", name, tp, dp, stage);
        }
  }
  return "";
}

void Ranks::write(State state, const std::string& name, std::int64_t first, std::span<const float> values) {
  Body& b = *body_;
  const std::int64_t end = first + static_cast<std::int64_t>(values.size());
  for (auto [stage, param] : b.find(name))
    for (int dp = 0; dp < b.world_dp(); ++dp)
      for (int tp = 0; tp < b.world_tp(); ++tp) {
        if (first == 0)  // vocabulary padding, which no element of the whole tensor reaches
          b.pieces(state, tp, stage, dp, param->begin, param->elements(),
                   [](std::span<float> part, std::int64_t) { std::fill(part.begin(), part.end(), 0.f); });
        for_each_run(*param, tp, first, end, [&](std::int64_t local, std::int64_t global, std::int64_t count) {
          b.pieces(state, tp, stage, dp, param->begin + local, count, [&](std::span<float> part, std::int64_t offset) {
            std::copy_n(values.begin() + global - first + offset, part.size(), part.begin());
          });
        });
      }
}

}  // namespace llmplan
