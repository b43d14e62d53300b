// metrics.jsonl: one JSON object per step.
#pragma once

#include <optional>
#include <string>

#include "executor/file.h"
#include "executor/trainer.h"

namespace llmplan {

std::string to_json(const StepMetrics&);  // one line

class MetricsLog {
 public:
  // Appends to `path`. Lines of steps after `last_step` are removed first: a run that was killed had done
  // them, but resumes before them.
  MetricsLog(const std::string& path, std::int64_t last_step);
  void write(const StepMetrics&);
  std::optional<double> first_loss() const { return first_loss_; }  // of the run, from before a resume

 private:
  LineWriter out_;
  std::optional<double> first_loss_;
};

}  // namespace llmplan
