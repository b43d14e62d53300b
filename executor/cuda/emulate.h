// Runs a kernel body on the host: one fiber per thread, switched at every point where threads of a
// block meet. Slow, exact, and needs no GPU. Blocks run one after another, in order.
#pragma once

#include <setjmp.h>
#include <ucontext.h>

#include <algorithm>
#include <cstring>
#include <functional>
#include <memory>
#include <stdexcept>
#include <vector>

#include "executor/cuda/block.h"

namespace llmplan::cuda {

class BlockEmulator;

// The host's side of a thread block, as one thread sees it.
class EmulatedBlock {
 public:
  std::int64_t index() const { return index_; }
  int thread() const { return thread_; }
  int threads() const { return threads_; }
  int lane() const { return thread_ & 31; }
  int warp() const { return thread_ >> 5; }
  void sync();
  template <class T> T* shared(std::size_t offset = 0);
  template <class T> T shuffle_xor(T v, int mask);
  void load_matrix_x4(std::uint32_t (&r)[4], const void* row) { load_matrix(r, row, false); }
  void load_matrix_x4_transposed(std::uint32_t (&r)[4], const void* row) { load_matrix(r, row, true); }
  template <class T> void mma(FragmentC& c, const FragmentA& a, std::uint32_t b0, std::uint32_t b1);
  // A copy is visible only after wait_copies, as on the device: it is carried out there.
  void copy16(void* to, const void* from, bool valid) { copies_.push_back({to, from, valid}); }
  void commit_copies() { groups_.push_back(copies_.size()); }
  template <int Pending> void wait_copies();

 private:
  friend class BlockEmulator;
  struct Copy { void* to; const void* from; bool valid; };
  void load_matrix(std::uint32_t (&r)[4], const void* row, bool transposed);

  BlockEmulator* emulator_ = nullptr;
  std::int64_t index_ = 0;
  int thread_ = 0, threads_ = 0;
  unsigned exchange_ = 0;  // exchanges within the warp so far
  std::vector<Copy> copies_;
  std::vector<std::size_t> groups_;  // copies_ up to here belong to committed groups
};

class BlockEmulator {
 public:
  explicit BlockEmulator(const Launch& launch)
      : threads_(launch.threads), shared_(launch.shared_bytes + 16), fibers_(launch.threads),
        blocks_(launch.threads), slots_(2 * launch.threads), warp_(launch.threads / 32 + 1) {
    if (launch.threads <= 0 || launch.threads % 32 || launch.threads > 1024)
      throw std::logic_error("a block has 32 to 1024 threads, a multiple of 32");
    for (auto& f : fibers_) f.stack.reset(new char[kStack]);
  }

  void run(std::int64_t index, const std::function<void(EmulatedBlock&)>& body) {
    body_ = &body;
    std::fill(shared_.begin(), shared_.end(), 0xff);  // NaNs: what a kernel forgot to write shows
    arrived_ = generation_ = 0;
    for (auto& w : warp_) w = {};
    for (int t = 0; t < threads_; ++t) {
      blocks_[t] = EmulatedBlock();
      blocks_[t].emulator_ = this;
      blocks_[t].index_ = index;
      blocks_[t].thread_ = t;
      blocks_[t].threads_ = threads_;
      Fiber& f = fibers_[t];
      f.started = f.done = false;
      getcontext(&f.context);
      f.context.uc_stack.ss_sp = f.stack.get();
      f.context.uc_stack.ss_size = kStack;
      f.context.uc_link = nullptr;  // enter() never returns
      auto self = reinterpret_cast<std::uintptr_t>(this);
      makecontext(&f.context, reinterpret_cast<void (*)()>(&BlockEmulator::enter), 3,
                  static_cast<unsigned>(self), static_cast<unsigned>(self >> 32), t);
    }
    for (int left = threads_, idle = 0; left > 0;) {
      for (int t = 0; t < threads_; ++t) {
        if (fibers_[t].done) continue;
        std::uint64_t before = progress_;
        resume(t);
        left -= fibers_[t].done;
        idle = progress_ != before ? 0 : idle + 1;
      }
      if (idle > 2 * threads_) throw std::logic_error("threads of a block wait for ones that left");
    }
  }

  void meet_block() {
    ++progress_;
    int mine = generation_;
    if (++arrived_ == threads_) { arrived_ = 0; ++generation_; return; }
    while (generation_ == mine) yield();
    ++progress_;
  }
  void meet_warp(int warp) {
    ++progress_;
    Warp& w = warp_[warp];
    int mine = w.generation;
    if (++w.arrived == 32) { w.arrived = 0; ++w.generation; return; }
    while (w.generation == mine) yield();
    ++progress_;
  }
  std::byte* shared() {
    auto p = reinterpret_cast<std::uintptr_t>(shared_.data());
    return reinterpret_cast<std::byte*>((p + 15) / 16 * 16);
  }
  struct Slot { unsigned char bytes[32]; };
  // Where thread t leaves what it shares in its warp's n-th exchange. Two sets in turn: a lane cannot start
  // exchange n + 2 before all have finished reading n, because they meet in n + 1.
  Slot& slot(int thread, unsigned exchange) { return slots_[2 * thread + exchange % 2]; }

 private:
  static constexpr std::size_t kStack = 64 << 10;
  struct Fiber {
    ucontext_t context;
    jmp_buf jump;
    std::unique_ptr<char[]> stack;
    bool started = false, done = false;
  };
  struct Warp { int arrived = 0, generation = 0; };

  static void enter(unsigned low, unsigned high, int thread) {
    auto* self = reinterpret_cast<BlockEmulator*>(static_cast<std::uintptr_t>(low) |
                                                  static_cast<std::uintptr_t>(high) << 32);
    (*self->body_)(self->blocks_[thread]);
    self->fibers_[thread].done = true;
    ++self->progress_;
    _longjmp(self->scheduler_jump_, 1);
  }
  // Runs fiber t until it yields or ends. No locals live across the jump but the parameter.
  void resume(int t) {
    current_ = t;
    if (_setjmp(scheduler_jump_) == 0) {
      if (fibers_[t].started) _longjmp(fibers_[t].jump, 1);
      fibers_[t].started = true;
      setcontext(&fibers_[t].context);
    }
  }
  // ucontext only starts a fiber; switching back and forth by jumps saves its two system calls.
  void yield() {
    if (_setjmp(fibers_[current_].jump) == 0) _longjmp(scheduler_jump_, 1);
  }

  int threads_;
  std::vector<unsigned char> shared_;
  std::vector<Fiber> fibers_;
  std::vector<EmulatedBlock> blocks_;
  std::vector<Slot> slots_;
  std::vector<Warp> warp_;
  const std::function<void(EmulatedBlock&)>* body_ = nullptr;
  jmp_buf scheduler_jump_;
  int arrived_ = 0, generation_ = 0, current_ = 0;
  std::uint64_t progress_ = 0;  // arrivals and departures: when it stands still, the block hangs
};

inline void EmulatedBlock::sync() { emulator_->meet_block(); }
template <class T> T* EmulatedBlock::shared(std::size_t offset) {
  return reinterpret_cast<T*>(emulator_->shared() + offset);
}
template <class T> T EmulatedBlock::shuffle_xor(T v, int mask) {
  std::memcpy(emulator_->slot(thread_, exchange_).bytes, &v, sizeof v);
  emulator_->meet_warp(warp());
  T other;
  std::memcpy(&other, emulator_->slot(thread_ ^ mask, exchange_).bytes, sizeof other);
  ++exchange_;
  return other;
}
inline void EmulatedBlock::load_matrix(std::uint32_t (&r)[4], const void* row, bool transposed) {
  std::memcpy(emulator_->slot(thread_, exchange_).bytes, &row, sizeof row);
  emulator_->meet_warp(warp());
  int first = warp() * 32, g = lane() / 4, t = lane() % 4;
  for (int tile = 0; tile < 4; ++tile) {
    std::uint16_t pair[2];
    for (int e = 0; e < 2; ++e) {
      int i = transposed ? 2 * t + e : g, j = transposed ? g : 2 * t + e;
      const std::uint16_t* line;
      std::memcpy(&line, emulator_->slot(first + tile * 8 + i, exchange_).bytes, sizeof line);
      pair[e] = line[j];
    }
    std::memcpy(&r[tile], pair, 4);
  }
  ++exchange_;
}
template <class T> void EmulatedBlock::mma(FragmentC& c, const FragmentA& a, std::uint32_t b0, std::uint32_t b1) {
  std::uint32_t mine[6] = {a.r[0], a.r[1], a.r[2], a.r[3], b0, b1};
  std::memcpy(emulator_->slot(thread_, exchange_).bytes, mine, sizeof mine);
  emulator_->meet_warp(warp());
  int first = warp() * 32, g = lane() / 4, t = lane() % 4;
  auto element = [&](int lane, int reg, int half) {
    std::uint16_t bits;
    std::memcpy(&bits, emulator_->slot(first + lane, exchange_).bytes + 4 * reg + 2 * half, 2);
    return to_float(T{bits});
  };
  for (int i = 0; i < 4; ++i) {
    int row = g + (i / 2) * 8, col = 2 * t + i % 2;
    float sum = c.r[i];
    for (int k = 0; k < 16; ++k) {
      int a_lane = (row % 8) * 4 + (k % 8) / 2, a_reg = row / 8 + 2 * (k / 8);
      int b_lane = col * 4 + (k % 8) / 2, b_reg = 4 + k / 8;
      sum += element(a_lane, a_reg, k % 2) * element(b_lane, b_reg, k % 2);
    }
    c.r[i] = sum;
  }
  ++exchange_;
}
template <int Pending> void EmulatedBlock::wait_copies() {
  while (groups_.size() > Pending) {
    std::size_t n = groups_.front();
    for (std::size_t i = 0; i < n; ++i)
      copies_[i].valid ? std::memcpy(copies_[i].to, copies_[i].from, 16) : std::memset(copies_[i].to, 0, 16);
    copies_.erase(copies_.begin(), copies_.begin() + static_cast<std::ptrdiff_t>(n));
    groups_.erase(groups_.begin());
    for (auto& g : groups_) g -= n;
  }
}

// Runs blocks [first, last) of the kernel's grid; all of it by default.
template <class Kernel>
void emulate(const Kernel& kernel, std::int64_t first = 0, std::int64_t last = -1) {
  Launch launch = kernel.launch();
  if (launch.blocks > kMaxBlocks) throw std::logic_error("grid is too large");
  BlockEmulator emulator(launch);
  if (last < 0) last = launch.blocks;
  for (std::int64_t b = first; b < last; ++b) emulator.run(b, [&](EmulatedBlock& block) { kernel(block); });
}

}  // namespace llmplan::cuda
