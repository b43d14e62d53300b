// What kernels need beyond their operands.
#pragma once

#include <cstdint>

#include "costmodel/strategy.h"
#include "executor/backend.h"
#include "executor/cuda/optimizer.h"

namespace llmplan::cuda {

// All pointers are to device memory that the backend owns.
struct LaunchContext {
  Coordinates where;
  const Optimizer* optimizer = nullptr;
  const Segment* segments = nullptr;   // of the whole flat buffer
  std::int64_t segment_count = 0;
  std::int64_t flat_begin = 0;         // element of the flat buffer at which the operands of GradStats and AdamW begin
  const AdamScalars* scalars = nullptr;
  double* partial = nullptr;           // scratch of GradStats: partial_doubles(largest slice)
  bool counts_loss = false;            // this rank's share of the loss enters the world's sum
};
constexpr std::int64_t partial_doubles(std::int64_t elements) {
  return (elements + kNormSumTile - 1) / kNormSumTile;
}

}  // namespace llmplan::cuda
