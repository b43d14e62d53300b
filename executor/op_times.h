// Time per kind of op, measured beside predicted.
#pragma once

#include <vector>

#include "executor/ranks.h"
#include "executor/trainer.h"

namespace llmplan {

// Sums over a timeline by kind of op, of the last kWindow steps.
class OpTimes {
 public:
  explicit OpTimes(const Plan&, const Ranks&);
  void add(const Ranks&);  // the timed step that has just ended
  // The median over the window, of the stage that was busiest; predicted: the same stage, simulated.
  std::vector<OpKindTime> result() const;

 private:
  static constexpr std::size_t kWindow = 512;
  std::vector<std::string> kinds_;
  std::vector<std::vector<std::int16_t>> kind_of_instr_;      // [stage][instr]
  std::vector<std::vector<double>> predicted_;                // [stage][kind]
  std::vector<std::vector<std::vector<double>>> measured_;    // [stage][kind][step in window]
  std::vector<int> rank_of_stage_;
  std::size_t next_ = 0;
};

// The measured timeline of the last step in Chrome's trace format, a process per rank.
std::string trace_json(const Ranks&);

}  // namespace llmplan
