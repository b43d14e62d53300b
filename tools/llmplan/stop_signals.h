// Ctrl-C, and a scheduler's SIGTERM, as a counter that long work looks at between steps.
#pragma once

#include <atomic>
#include <csignal>

namespace llmplan::cli {

// While alive: the first signal asks to stop cleanly and prints `what_happens`, the second to stop now,
// the third ends the process. A closed log pipe (SIGPIPE) does not end it.
class StopSignals {
 public:
  explicit StopSignals(const char* what_happens);
  ~StopSignals();
  StopSignals(const StopSignals&) = delete;
  StopSignals& operator=(const StopSignals&) = delete;

  const std::atomic<int>* requested() const;  // 0, 1, 2

 private:
  struct sigaction old_int_{}, old_term_{}, old_pipe_{};
};

}  // namespace llmplan::cli
