// Every compute op on the GPU, except matrix products (gemm.h). Enqueues on a stream and returns.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <span>

#include "costmodel/op.h"
#include "executor/cuda/launch_context.h"

namespace llmplan::cuda {

// Operands in the order of op.h. Throws Error E0510 for a type or size that no kernel handles, E0511 for
// what CUDA reports.
void launch(const Op& op, std::span<const std::byte* const> reads, std::span<std::byte* const> writes,
            const LaunchContext& context, cudaStream_t stream);

// out = Σ over ranks in rank order, for ranks that share this GPU.
void launch_rank_sum(DType dtype, std::int64_t elements, std::span<const std::byte* const> in, std::byte* out,
                     cudaStream_t stream);

}  // namespace llmplan::cuda
