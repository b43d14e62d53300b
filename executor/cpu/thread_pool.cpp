#include "executor/cpu/thread_pool.h"

#include <atomic>
#include <chrono>
#include <exception>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

namespace llmplan::cpu {
namespace {

// Threads of all pools of this process. Only while they fit on the cores may an idle one spin: beyond
// that, it would take the core from a neighbour rank that has work.
std::atomic<int> live_threads{0};

bool may_spin() {
  static const int cores = static_cast<int>(std::thread::hardware_concurrency());
  return live_threads.load(std::memory_order_relaxed) <= cores;
}

void pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// Spins until `ready`, a few microseconds at most.
template <class Ready>
bool spin(std::chrono::microseconds limit, Ready ready) {
  if (ready()) return true;
  if (!may_spin()) return false;
  const auto end = std::chrono::steady_clock::now() + limit;
  do {
    for (int i = 0; i < 32; ++i) {
      if (ready()) return true;
      pause();
    }
  } while (std::chrono::steady_clock::now() < end);
  return false;
}
constexpr std::chrono::microseconds kIdleSpin{20}, kFinishSpin{20};

constexpr std::uint64_t kTileMask = 0xffffffffu;

}  // namespace

struct ThreadPool::State {
  // Job number in the upper half, next tile in the lower: one compare-exchange claims a tile of the job
  // that the thread has read, or fails because another thread or another job came first.
  std::atomic<std::uint64_t> ticket{0};
  std::atomic<std::uint32_t> tiles{0};
  std::atomic<const std::function<void(std::int64_t)>*> body{nullptr};
  std::atomic<std::uint32_t> unfinished{0};
  std::atomic<std::uint32_t> job{0};  // what idle threads sleep on
  std::atomic<bool> failed{false}, stop{false};
  std::mutex error_mutex;
  std::exception_ptr error;
  std::vector<std::thread> workers;

  // Claims and runs tiles of job `number` until none is left.
  void work(std::uint32_t number) {
    for (;;) {
      std::uint64_t t = ticket.load(std::memory_order_acquire);
      if (static_cast<std::uint32_t>(t >> 32) != number) return;
      // Valid if the exchange succeeds. If they were of a later job, then, by acquire and release, this
      // thread would also see the ticket that was closed before they were written, and fail.
      const auto* run = body.load(std::memory_order_acquire);
      const std::uint32_t count = tiles.load(std::memory_order_acquire);
      const auto tile = static_cast<std::uint32_t>(t & kTileMask);
      if (tile >= count) return;
      if (!ticket.compare_exchange_weak(t, t + 1, std::memory_order_acq_rel)) continue;
      if (!failed.load(std::memory_order_relaxed)) {
        try {
          (*run)(tile);
        } catch (...) {
          std::lock_guard lock(error_mutex);
          if (!error) error = std::current_exception();
          failed.store(true, std::memory_order_relaxed);
        }
      }
      if (unfinished.fetch_sub(1, std::memory_order_acq_rel) == 1) unfinished.notify_one();
    }
  }

  void loop() {
    std::uint32_t seen = 0;
    for (;;) {
      const auto changed = [&] { return job.load(std::memory_order_acquire) != seen; };
      if (!spin(kIdleSpin, changed))
        while (!changed()) job.wait(seen, std::memory_order_acquire);
      seen = job.load(std::memory_order_acquire);
      if (stop.load(std::memory_order_acquire)) return;
      work(seen);
    }
  }
};

ThreadPool::ThreadPool(int threads) : state_(std::make_unique<State>()) {
  for (int i = 1; i < threads; ++i) {
    State* s = state_.get();
    s->workers.emplace_back([s] { s->loop(); });
  }
  live_threads += this->threads();
}

ThreadPool::~ThreadPool() {
  live_threads -= threads();
  state_->stop.store(true, std::memory_order_release);
  state_->job.fetch_add(1, std::memory_order_acq_rel);
  state_->job.notify_all();
  for (std::thread& t : state_->workers) t.join();
}

int ThreadPool::threads() const { return static_cast<int>(state_->workers.size()) + 1; }

void ThreadPool::parallel_for(std::int64_t tiles, const std::function<void(std::int64_t)>& body) {
  if (tiles <= 1 || state_->workers.empty()) {
    for (std::int64_t t = 0; t < tiles; ++t) body(t);
    return;
  }
  if (tiles >= static_cast<std::int64_t>(kTileMask)) {  // more than a ticket holds
    const std::int64_t per_tile = (tiles + 65535) / 65536;
    parallel_for((tiles + per_tile - 1) / per_tile, [&](std::int64_t t) {
      for (std::int64_t i = t * per_tile; i < tiles && i < (t + 1) * per_tile; ++i) body(i);
    });
    return;
  }
  State& s = *state_;
  const std::uint32_t number = s.job.load(std::memory_order_relaxed) + 1;
  s.ticket.store(std::uint64_t{number} << 32 | kTileMask, std::memory_order_relaxed);  // closed
  s.body.store(&body, std::memory_order_release);
  s.tiles.store(static_cast<std::uint32_t>(tiles), std::memory_order_release);
  s.unfinished.store(static_cast<std::uint32_t>(tiles), std::memory_order_relaxed);
  s.ticket.store(std::uint64_t{number} << 32, std::memory_order_release);
  s.job.store(number, std::memory_order_release);
  s.job.notify_all();
  s.work(number);
  const auto done = [&] { return s.unfinished.load(std::memory_order_acquire) == 0; };
  if (!spin(kFinishSpin, done))
    for (std::uint32_t left; (left = s.unfinished.load(std::memory_order_acquire)) != 0;)
      s.unfinished.wait(left, std::memory_order_acquire);
  if (s.failed.load(std::memory_order_relaxed)) {
    s.failed.store(false, std::memory_order_relaxed);
    std::exception_ptr error;
    {
      std::lock_guard lock(s.error_mutex);
      error = std::exchange(s.error, nullptr);
    }
    std::rethrow_exception(error);
  }
}

}  // namespace llmplan::cpu
