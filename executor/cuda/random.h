// Random operands for tuning and benchmarks: matrix products of constants run faster than real ones,
// because fewer bits toggle.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "costmodel/op.h"

namespace llmplan::cuda {

// `elements` numbers, uniform in [−1, 1), a function of (seed, index).
void fill_random(DType dtype, std::int64_t elements, void* out, std::uint64_t seed, cudaStream_t stream);

}  // namespace llmplan::cuda
