// The learning rate of a step: linear warm-up, then half a cosine down to min_lr at the last step.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <numbers>

#include "costmodel/strategy.h"

namespace llmplan {

// `step` counts from 1. Warm-up reaches lr at step warmup_steps; a run that is shorter than its warm-up
// never leaves it.
inline double learning_rate(const Optimizer& o, std::int64_t step, std::int64_t steps) {
  if (step <= o.warmup_steps)
    return o.lr * static_cast<double>(step) / static_cast<double>(o.warmup_steps);
  double done = static_cast<double>(step - o.warmup_steps) /
                static_cast<double>(std::max<std::int64_t>(1, steps - o.warmup_steps));
  done = std::min(done, 1.0);
  return o.min_lr + 0.5 * (o.lr - o.min_lr) * (1 + std::cos(std::numbers::pi * done));
}

}  // namespace llmplan
