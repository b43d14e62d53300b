// The decision of op.h's LossScale, the same code on every backend.
#pragma once

#include <cmath>

#include "costmodel/op.h"
#include "costmodel/strategy.h"

#ifdef __CUDACC__
#define LLMPLAN_ANYWHERE __host__ __device__
#else
#define LLMPLAN_ANYWHERE
#endif

namespace llmplan {

inline constexpr double kSmallestLossScale = 1;  // Megatron's --min-loss-scale

// `stats`: {Σ grad², Σ loss, counted tokens} of the world.
LLMPLAN_ANYWHERE inline void decide_loss_scale(std::int64_t window, double beta1, double beta2, double* stats,
                                               LossScaling& s) {
  s.inverse = 1 / s.scale;
  const bool finite = stats[0] - stats[0] == 0;  // neither infinite nor NaN
  s.apply = finite ? 1 : 0;
  if (!finite) {
    s.skipped += 1;
    s.good_in_a_row = 0;
    s.scale = s.scale / 2 > kSmallestLossScale ? s.scale / 2 : kSmallestLossScale;
    return;
  }
  stats[0] *= s.inverse * s.inverse;
  s.taken += 1;
  s.correction1 = 1 - pow(beta1, s.taken);
  s.correction2 = 1 - pow(beta2, s.taken);
  s.good_in_a_row += 1;
  if (s.good_in_a_row < static_cast<double>(window)) return;
  s.good_in_a_row = 0;
  s.scale *= 2;
}

}  // namespace llmplan
