// Threads that stay, one per rank, and do the same thing at the same time.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <exception>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace llmplan {

class Crew {
 public:
  explicit Crew(int size);
  ~Crew();
  Crew(const Crew&) = delete;
  Crew& operator=(const Crew&) = delete;

  // Runs job(rank) on every thread. Returns when all are done; calls `while_waiting` ten times a second
  // until then. Throws the error that a rank met by itself, rather than one that only followed from it.
  void run(const std::function<void(int)>& job, const std::function<void()>& while_waiting);

 private:
  void serve(int rank);

  std::mutex mutex_;
  std::condition_variable wake_, done_;
  const std::function<void(int)>* job_ = nullptr;
  std::uint64_t round_ = 0;
  int working_ = 0;
  bool closing_ = false;
  std::vector<std::exception_ptr> errors_;
  std::vector<std::thread> threads_;
};

}  // namespace llmplan
