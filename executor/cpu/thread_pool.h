// Threads that share a loop: tiles are handed out dynamically, and idle threads sleep, because a
// spinning thread takes the core from a neighbour rank.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>

namespace llmplan::cpu {

class ThreadPool {
 public:
  explicit ThreadPool(int threads);  // the caller counts as one: threads − 1 are started
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int threads() const;
  // Calls body(tile) for every tile in [0, tiles), in any order, from any thread; returns when all are
  // done. One caller at a time.
  void parallel_for(std::int64_t tiles, const std::function<void(std::int64_t)>& body);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace llmplan::cpu
