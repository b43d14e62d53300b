#include "executor/cuda/random.h"

#include "executor/cuda/block.h"
#include "executor/cuda/dispatch.h"
#include "executor/cuda/status.h"

namespace llmplan::cuda {
namespace {

template <class T>
__global__ void fill(std::int64_t elements, T* out, std::uint64_t seed) {
  std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= elements) return;
  std::uint64_t x = seed * 0x9e3779b97f4a7c15ull + static_cast<std::uint64_t>(i);  // splitmix64
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
  x ^= x >> 31;
  out[i] = from_float<T>(static_cast<float>(x >> 40) * 0x1p-23f - 1.0f);
}

}  // namespace

void fill_random(DType dtype, std::int64_t elements, void* out, std::uint64_t seed, cudaStream_t stream) {
  const auto start = [&](auto type) {
    using T = decltype(type);
    fill<T><<<static_cast<unsigned>(ceil_div(elements, 256)), 256, 0, stream>>>(elements, static_cast<T*>(out), seed);
    check(cudaGetLastError(), "random operands");
  };
  if (dtype == DType::fp8_e4m3) start(E4M3{});
  else if (dtype == DType::fp8_e5m2) start(E5M2{});
  else with_type(dtype, start);
}

}  // namespace llmplan::cuda
