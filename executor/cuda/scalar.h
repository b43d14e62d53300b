// Number types of the GPU kernels, in plain bits, so that the same code runs on the host.
#pragma once

#include <math.h>

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
struct Float16 { std::uint16_t bits; };  // IEEE binary16
template <class T> inline constexpr bool is_bfloat16 = false;
template <> inline constexpr bool is_bfloat16<BFloat16> = true;

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


LLMPLAN_HD float to_float(Float16 x) {
#ifdef __CUDA_ARCH__
  float y;
  asm("cvt.f32.f16 %0, %1;" : "=f"(y) : "h"(x.bits));
  return y;
#else
  std::uint32_t e = x.bits >> 10 & 31, m = x.bits & 1023u;
  float y = e == 0 ? static_cast<float>(m) * 0x1p-24f : 0.0f;
  if (e != 0) {
    std::uint32_t bits = e == 31 ? 0x7f800000u | m << 13 : (e + 112) << 23 | m << 13;
    memcpy(&y, &bits, 4);
  }
  return x.bits & 0x8000u ? -y : y;
#endif
}
// Beyond the largest number: infinity, which loss scaling notices.
template <> LLMPLAN_HD Float16 from_float<Float16>(float x) {
#ifdef __CUDA_ARCH__
  Float16 y;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(y.bits) : "f"(x));
  return y;
#else
  std::uint32_t bits;
  memcpy(&bits, &x, 4);
  std::uint16_t sign = static_cast<std::uint16_t>(bits >> 16 & 0x8000u);
  bits &= 0x7fffffffu;
  std::uint32_t code;
  if (bits > 0x7f800000u) code = 0x7e00u;
  else if (bits >= 0x477ff000u) code = 0x7c00u;  // 65520 and more
  else if (bits >= 0x38800000u) code = (bits + 0xfffu + (bits >> 13 & 1) - 0x38000000u) >> 13;
  else {  // subnormal: a multiple of 2^-24
    float size;
    memcpy(&size, &bits, 4);
    code = static_cast<std::uint32_t>(rintf(size * 0x1p24f));
  }
  return {static_cast<std::uint16_t>(code | sign)};
#endif
}

// The 8-bit formats of 2209.05433: 5 bits of exponent with infinities, 4 bits without and one NaN per sign.
struct E4M3 { std::uint8_t bits; };
struct E5M2 { std::uint8_t bits; };
template <class T> struct Format8;
template <> struct Format8<E4M3> { static constexpr int kMantissa = 3, kBias = 7; static constexpr float kLargest = 448; };
template <> struct Format8<E5M2> { static constexpr int kMantissa = 2, kBias = 15; static constexpr float kLargest = 57344; };

template <class T>
LLMPLAN_HD float to_float8(T x) {
  using F = Format8<T>;
  int e = x.bits >> F::kMantissa & (127 >> F::kMantissa), m = x.bits & ((1 << F::kMantissa) - 1);
  float y = e == 0 ? ldexpf(static_cast<float>(m), 1 - F::kBias - F::kMantissa)
                   : ldexpf(static_cast<float>(m + (1 << F::kMantissa)), e - F::kBias - F::kMantissa);
  if (y > F::kLargest) y = F::kMantissa == 2 && m == 0 ? INFINITY : NAN;
  return x.bits & 0x80 ? -y : y;
}
LLMPLAN_HD float to_float(E4M3 x) { return to_float8(x); }
LLMPLAN_HD float to_float(E5M2 x) { return to_float8(x); }

// To nearest, ties to even; what is too large becomes the largest number (Hopper's cvt.rn.satfinite).
template <class T>
LLMPLAN_HD T from_float8(float x) {
  using F = Format8<T>;
  auto sign = static_cast<std::uint8_t>(signbit(x) ? 0x80 : 0);
  if (x != x) return {static_cast<std::uint8_t>(0x7f | sign)};
  float size = fabsf(x) < F::kLargest ? fabsf(x) : F::kLargest;
  int e = size > 0 ? ilogbf(size) : -126;
  if (e < 1 - F::kBias) e = 1 - F::kBias;  // subnormal: the spacing stays
  int steps = static_cast<int>(rintf(ldexpf(size, F::kMantissa - e)));
  return {static_cast<std::uint8_t>((((e + F::kBias - 1) << F::kMantissa) + steps) | sign)};
}
template <> LLMPLAN_HD E4M3 from_float<E4M3>(float x) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 890
  std::uint16_t pair;
  asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(pair) : "f"(0.0f), "f"(x));
  return {static_cast<std::uint8_t>(pair)};
#else
  return from_float8<E4M3>(x);
#endif
}
template <> LLMPLAN_HD E5M2 from_float<E5M2>(float x) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 890
  std::uint16_t pair;
  asm("cvt.rn.satfinite.e5m2x2.f32 %0, %1, %2;" : "=h"(pair) : "f"(0.0f), "f"(x));
  return {static_cast<std::uint8_t>(pair)};
#else
  return from_float8<E5M2>(x);
#endif
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
