// Matrix products by cuBLASLt. Descriptors live as long as the object; the algorithm of each shape is the
// fastest of the library's candidates, timed on random data, and remembered in a file.
#pragma once

#include <cublasLt.h>
#include <cuda_runtime.h>

#include <cstddef>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "costmodel/op.h"

namespace llmplan::cuda {

inline constexpr std::size_t kGemmWorkspace = 32u << 20;  // per stream; what Hopper's algorithms ask for

class Gemms {
 public:
  // `workspace`: kGemmWorkspace bytes of device memory that only the compute stream uses.
  explicit Gemms(void* workspace);
  ~Gemms();
  Gemms(const Gemms&) = delete;
  Gemms& operator=(const Gemms&) = delete;

  // Chooses algorithms for these shapes: from the cache file, else by timing up to `candidates` of them
  // (1: the library's first guess, deterministic without a file). Uses temporary device memory for
  // the operands, so call it before the arena is allocated.
  void tune(const std::vector<Gemm>& shapes, const std::string& cache_file, int candidates = 16);

  // Enqueues c (+)= a·b, in fp8 times the two factors on the device.
  void run(const Gemm& gemm, const void* a, const void* b, void* c, cudaStream_t stream, const float* factor_a = nullptr,
           const float* factor_b = nullptr);

 private:
  struct Prepared;
  Prepared& prepare(const Gemm& gemm);

  cublasLtHandle_t handle_ = nullptr;
  void* workspace_ = nullptr;
  std::map<std::string, std::unique_ptr<Prepared>> prepared_;  // by key(gemm)
};

// "512x1024x4096 nt bf16 fp32 +": dimensions, transpositions, types, accumulation.
std::string key(const Gemm& gemm);
// $XDG_CACHE_HOME/llmplan/gemm-<device>-<library version>.json
std::string gemm_cache_file(int device);

}  // namespace llmplan::cuda
