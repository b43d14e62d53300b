// Number types of the GPU kernels, in plain bits, so that the same code runs on the host.
#pragma once

#include <cstdint>
#include <cstring>

#ifdef __CUDACC__
#define LLMPLAN_HD __host__ __device__ __forceinline__
#else
#define LLMPLAN_HD inline
#endif
// Register arrays need constant indices, so loops over them must be unrolled on the device.
#ifdef __CUDA_ARCH__
#define LLMPLAN_UNROLL _Pragma("unroll")
#else
#define LLMPLAN_UNROLL
#endif

namespace llmplan::cuda {

struct BFloat16 { std::uint16_t bits; };

LLMPLAN_HD float to_float(float x) { return x; }
LLMPLAN_HD float to_float(BFloat16 x) {
  std::uint32_t bits = static_cast<std::uint32_t>(x.bits) << 16;
  float y;
  memcpy(&y, &bits, 4);
  return y;
}

// Round to nearest, ties to even; a NaN stays a NaN.
template <class T> LLMPLAN_HD T from_float(float x);
template <> LLMPLAN_HD float from_float<float>(float x) { return x; }
template <> LLMPLAN_HD BFloat16 from_float<BFloat16>(float x) {
  std::uint32_t bits;
  memcpy(&bits, &x, 4);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return {static_cast<std::uint16_t>((bits >> 16) | 0x40)};
  return {static_cast<std::uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1)) >> 16)};
}

// N neighbouring elements that are loaded and stored as one access (16 bytes where N·sizeof(T) is).
template <class T, int N>
struct alignas(sizeof(T) * N) Vec {
  T at[N];
};
// Elements of one 16-byte access.
template <class T> inline constexpr int kVec = 16 / static_cast<int>(sizeof(T));

template <int N, class T>
LLMPLAN_HD Vec<T, N> load(const T* p) { return *reinterpret_cast<const Vec<T, N>*>(p); }
template <int N, class T>
LLMPLAN_HD void store(T* p, const Vec<T, N>& v) { *reinterpret_cast<Vec<T, N>*>(p) = v; }

}  // namespace llmplan::cuda
