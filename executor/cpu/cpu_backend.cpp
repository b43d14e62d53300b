#include "executor/cpu/cpu_backend.h"

#include <fmt/format.h>

#include <array>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <thread>
#include <vector>

#include "costmodel/error.h"
#include "executor/cpu/kernels.h"
#include "executor/cpu/thread_pool.h"
#include "executor/documents.h"
#include "executor/shard.h"

namespace llmplan::cpu {
namespace {

using Clock = std::chrono::steady_clock;
constexpr std::size_t kMaxOperands = 8;

struct Command {
  InstrId instr;
  std::size_t first_wait, end_wait;  // in Queue::waits
};
struct Queue {
  std::vector<Command> commands;
  std::vector<InstrId> waits;
  std::size_t next_wait = 0;     // waits from here on belong to the next launch
  std::atomic<std::int32_t> done = 0;  // instructions finished
};

}  // namespace

struct CpuBackend::State {
  Coordinates where;
  Communicator& communicator;
  ThreadPool pool;
  std::array<std::byte*, 2> base;  // by Space
  KernelContext context;  // of the compute stream, which alone runs kernels
  Execution now;

  std::array<Queue, kStreams> queues;
  std::vector<std::int32_t> position;  // by InstrId: its place in its stream
  Timeline timeline;

  std::mutex mutex;
  std::condition_variable changed;     // an instruction finished, a queue was started or emptied, a failure
  std::array<std::thread, kStreams> threads;
  std::array<std::uint64_t, kStreams> started{}, finished{};  // executions of each stream
  bool closing = false;
  std::atomic<bool> failed = false, cancelled = false;
  std::exception_ptr failure;

  State(const Coordinates& w, Communicator& c, const Optimizer& optimizer, int pool_threads, std::byte* device, std::byte* host)
      : where(w), communicator(c), pool(pool_threads), base{device, host} {
    context.pool = &pool;
    context.where = w;
    context.optimizer = &optimizer;
  }

  std::byte* address(const Ref& r) const {
    auto b = static_cast<std::size_t>(r.buffer);
    return base[static_cast<std::size_t>(now.program->buffers[b].space)] + now.layout->offset[b].value + r.offset.value;
  }

  bool finished_before(InstrId i) const {
    auto s = static_cast<std::size_t>(now.program->instrs[static_cast<std::size_t>(i)].stream);
    return queues[s].done.load(std::memory_order_acquire) > position[static_cast<std::size_t>(i)];
  }

  void wait_for(InstrId i) {
    if (finished_before(i)) return;
    std::unique_lock lock(mutex);
    changed.wait(lock, [&] { return finished_before(i) || failed; });
  }

  // Fills ids and targets of an instruction's micro-batch; sample = dp·(per rank) + its place there, so
  // that every split of the global batch trains on the same samples.
  void load(const Load& op, const Instr& in) {
    auto first = static_cast<std::int64_t>(where.dp) * now.samples_per_rank + std::max(0, in.micro_batch) * now.samples_per_micro_batch;
    auto seq = static_cast<std::size_t>(op.rows / now.samples_per_micro_batch);
    std::vector<std::int32_t> unused(in.writes.size() < 2 ? seq : 0);
    auto* ids = reinterpret_cast<std::int32_t*>(address(in.writes[0]));
    for (std::int64_t k = 0; k < now.samples_per_micro_batch; ++k) {
      std::size_t at = static_cast<std::size_t>(k) * seq;
      std::span<std::int32_t> targets = unused;
      if (in.writes.size() > 1) targets = {reinterpret_cast<std::int32_t*>(address(in.writes[1])) + at, seq};
      (*now.samples)(first + k, {ids + at, seq}, targets);
      if (op.documents) document_starts(targets, {reinterpret_cast<std::int32_t*>(address(in.writes[2])) + at, seq});
    }
  }

  void run_instr(InstrId i) {
    const Instr& in = now.program->instrs[static_cast<std::size_t>(i)];
    Clock::time_point start = Clock::now();
    if (auto* op = std::get_if<Load>(&in.op)) {
      load(*op, in);
    } else if (auto* op = std::get_if<Collective>(&in.op)) {
      start = communicator.collective(*op, in.reads.empty() ? nullptr : address(in.reads[0]), address(in.writes[0]));
    } else if (auto* op = std::get_if<Send>(&in.op)) {
      start = communicator.send(*op, address(in.reads[0]));
    } else if (auto* op = std::get_if<Recv>(&in.op)) {
      start = communicator.recv(*op, address(in.writes[0]));
    } else {
      std::array<const std::byte*, kMaxOperands> reads;
      std::array<std::byte*, kMaxOperands> writes;
      for (std::size_t k = 0; k < in.reads.size(); ++k) reads[k] = address(in.reads[k]);
      for (std::size_t k = 0; k < in.writes.size(); ++k) writes[k] = address(in.writes[k]);
      context.flat_begin = flat_begin(in);
      cpu::run(in.op, std::span(reads).first(in.reads.size()), std::span(writes).first(in.writes.size()), context);
    }
    auto since = [&](Clock::time_point t) { return Seconds{std::chrono::duration<double>(t - now.start).count()}; };
    timeline[static_cast<std::size_t>(i)] = {since(start), since(Clock::now())};
  }

  void fail() noexcept {
    std::string reason = "unknown";
    try {
      throw;
    } catch (const std::exception& e) {
      reason = e.what();
    } catch (...) {
    }
    {
      std::lock_guard lock(mutex);
      if (!failure) failure = std::current_exception();
      failed = true;
      changed.notify_all();
    }
    communicator.abort(fmt::format("rank {} failed: {}", where.rank, reason));
  }

  void run_queue(std::size_t stream) noexcept {
    Queue& q = queues[stream];
    try {
      for (const Command& c : q.commands) {
        for (std::size_t w = c.first_wait; w < c.end_wait; ++w) wait_for(q.waits[w]);
        if (failed) return;
        if (cancelled)
          throw Error("E0602", Exit::rank_lost, "stopped at once, in the middle of a step",
                      "nothing was saved since the last checkpoint; --resume continues from there");
        run_instr(c.instr);
        std::lock_guard lock(mutex);
        q.done.fetch_add(1, std::memory_order_release);
        changed.notify_all();
      }
    } catch (...) {
      fail();
    }
  }

  void serve(std::size_t stream) {
    for (std::uint64_t n = 0;; ++n) {
      std::unique_lock lock(mutex);
      changed.wait(lock, [&] { return started[stream] > n || closing; });
      if (started[stream] <= n) return;
      lock.unlock();
      run_queue(stream);
      lock.lock();
      finished[stream] = n + 1;
      changed.notify_all();
    }
  }
};

CpuBackend::CpuBackend(const Coordinates& where, Communicator& communicator, const Optimizer& optimizer, int threads,
                       std::byte* device, std::byte* host)
    : state_(std::make_unique<State>(where, communicator, optimizer, threads, device, host)) {}

CpuBackend::~CpuBackend() {
  State& s = *state_;
  {
    std::lock_guard lock(s.mutex);
    s.closing = true;
    s.changed.notify_all();
  }
  for (auto& t : s.threads)
    if (t.joinable()) t.join();
}

void CpuBackend::begin(const Execution& execution) {
  State& s = *state_;
  s.now = execution;
  s.context.step = execution.step;
  s.context.params = &execution.program->params;
  s.timeline.assign(execution.program->instrs.size(), Span{});
  s.position.resize(execution.program->instrs.size());
  for (Queue& q : s.queues) {
    q.commands.clear();
    q.waits.clear();
    q.next_wait = 0;
    q.done = 0;
  }
}

void CpuBackend::cancel() noexcept { state_->cancelled = true; }

void CpuBackend::wait(Stream stream, InstrId i) { state_->queues[static_cast<std::size_t>(stream)].waits.push_back(i); }

void CpuBackend::launch(const Program& program, InstrId i) {
  Queue& q = state_->queues[static_cast<std::size_t>(program.instrs[static_cast<std::size_t>(i)].stream)];
  state_->position[static_cast<std::size_t>(i)] = static_cast<std::int32_t>(q.commands.size());
  q.commands.push_back({i, q.next_wait, q.waits.size()});
  q.next_wait = q.waits.size();
}

void CpuBackend::synchronize() {
  State& s = *state_;
  constexpr auto kCompute = static_cast<std::size_t>(Stream::compute);
  {
    std::lock_guard lock(s.mutex);
    for (std::size_t i = 0; i < kStreams; ++i) {
      if (i == kCompute || s.queues[i].commands.empty()) continue;
      if (!s.threads[i].joinable()) s.threads[i] = std::thread([&s, i] { s.serve(i); });
      ++s.started[i];
    }
    s.changed.notify_all();
  }
  s.run_queue(kCompute);
  std::unique_lock lock(s.mutex);
  s.changed.wait(lock, [&] { return s.started == s.finished; });
  if (s.failure) std::rethrow_exception(s.failure);
}

const Timeline& CpuBackend::timeline() const { return state_->timeline; }

}  // namespace llmplan::cpu
