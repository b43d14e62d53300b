// CUDA and cuBLASLt status codes become Errors.
#pragma once

#include <cublasLt.h>
#include <cuda_runtime.h>

#include <string>

#include "costmodel/error.h"

namespace llmplan::cuda {

inline void check(cudaError_t status, const char* what) {
  if (status != cudaSuccess)
    throw Error("E0511", Exit::environment, std::string("CUDA: ") + cudaGetErrorString(status) + " (" + what + ")",
                "`llmplan env` shows driver and toolkit; LLMPLAN_DEVICE=cpu runs on the cores instead");
}

inline void check(cublasStatus_t status, const char* what) {
  if (status != CUBLAS_STATUS_SUCCESS)
    throw Error("E0512", Exit::environment,
                std::string("cuBLASLt: ") + cublasLtGetStatusString(status) + " (" + what + ")",
                "`llmplan env` shows the library's version; LLMPLAN_DEVICE=cpu runs on the cores instead");
}

}  // namespace llmplan::cuda
