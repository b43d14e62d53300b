// Whether this machine has a GPU: tests that need one are skipped, and counted as skipped, where it has none.
#pragma once

#include <cuda_runtime.h>

namespace llmplan::cuda::test {

inline bool no_gpu() {
  int count = 0;
  return cudaGetDeviceCount(&count) != cudaSuccess || count == 0;
}

}  // namespace llmplan::cuda::test
