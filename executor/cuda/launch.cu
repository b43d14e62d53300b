#include "executor/cuda/launch.h"

#include "executor/cuda/dispatch.h"
#include "executor/cuda/status.h"

namespace llmplan::cuda {
namespace {

struct StartOn {
  cudaStream_t stream;

  template <class Kernel>
  void operator()(const Kernel& kernel) const {
    Launch shape = kernel.launch();
    if (shape.blocks == 0) return;
    if (shape.blocks > kMaxBlocks) refuse("a grid of " + std::to_string(shape.blocks) + " blocks");
    // More than 48 KiB of shared memory must be asked for.
    if (shape.shared_bytes > 48 * 1024)
      check(cudaFuncSetAttribute(run_kernel<Kernel>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                 static_cast<int>(shape.shared_bytes)), "shared memory");
    run_kernel<Kernel><<<static_cast<unsigned>(shape.blocks), shape.threads, shape.shared_bytes, stream>>>(kernel);
    check(cudaGetLastError(), "launch");
  }
};

}  // namespace

void launch(const Op& op, std::span<const std::byte* const> reads, std::span<std::byte* const> writes,
            const LaunchContext& context, cudaStream_t stream) {
  std::visit(Dispatch<StartOn>{{reads, writes}, context, {stream}}, op);
}

void launch_rank_sum(DType dtype, std::int64_t elements, std::span<const std::byte* const> in, std::byte* out,
                     cudaStream_t stream) {
  dispatch_rank_sum(dtype, elements, in, out, StartOn{stream});
}

}  // namespace llmplan::cuda
