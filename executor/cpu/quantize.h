// Per-tensor current scaling into 8 bits (op.h: Quantize).
#pragma once

#include <cstddef>
#include <cstdint>

#include "costmodel/op.h"
#include "executor/cpu/thread_pool.h"

namespace llmplan::cpu {

// x[rows, columns] fp32 to `straight` and/or `transposed` (null: not wanted); factor[0] gives x back.
void quantize(DType to, std::int64_t rows, std::int64_t columns, const float* x, std::byte* straight, std::byte* transposed,
              float* factor, ThreadPool& pool);

}  // namespace llmplan::cpu
