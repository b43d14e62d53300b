// How a run shows where it is: a bar that redraws itself on a terminal, one key=value line every few
// steps otherwise. Both go to stderr.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>

#include "executor/trainer.h"

namespace llmplan::cli {

class ProgressBar {
 public:
  ProgressBar(std::int64_t steps, std::int64_t log_every);
  ~ProgressBar();  // ends the bar's line
  void update(const StepMetrics&);

 private:
  using Clock = std::chrono::steady_clock;
  std::int64_t steps_, log_every_, first_ = -1;
  bool terminal_;
  bool drawn_ = false;
  Clock::time_point begun_{}, drawn_at_{};
};

std::string bar_line(const StepMetrics&, std::int64_t steps, Seconds left, int width);
std::string log_line(const StepMetrics&, std::int64_t steps, Seconds left);

}  // namespace llmplan::cli
