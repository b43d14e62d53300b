// One SIMD vector of the instruction set that this file is compiled for, and the functions on it that
// the kernels share. Written with GCC/Clang vector extensions: no intrinsics, no Eigen, no std.
//
// Everything in executor/cpu/isa/ is compiled once per instruction set, in a namespace of that name,
// and everything but the kernel table's entries has internal linkage. No inline function or template
// of another library may be called here: its weak symbol, compiled for AVX-512, could be the copy that
// the linker keeps for the whole program. tests/executor/isa_symbols.cmake checks the object files.
#pragma once

#include <cstdint>

#ifndef LLMPLAN_ISA
#error "compile with -DLLMPLAN_ISA=generic|avx2|avx512"
#endif

namespace llmplan::cpu::LLMPLAN_ISA {
namespace {

using i64 = std::int64_t;

#if defined(__AVX512F__)
#define LLMPLAN_LANES 16
constexpr int kRowsPerTile = 12;  // 12·2 accumulators + 2 columns + 2 broadcasts of 32 registers
#elif defined(__AVX2__)
#define LLMPLAN_LANES 8
constexpr int kRowsPerTile = 6;   // 6·2 + 2 + 2 of 16
#elif defined(__aarch64__)
#define LLMPLAN_LANES 4
constexpr int kRowsPerTile = 12;
#else
#define LLMPLAN_LANES 4
constexpr int kRowsPerTile = 6;
#endif
constexpr int kLanes = LLMPLAN_LANES;

typedef float Vec __attribute__((vector_size(4 * LLMPLAN_LANES)));
typedef std::int32_t IVec __attribute__((vector_size(4 * LLMPLAN_LANES)));
typedef float UnalignedVec __attribute__((vector_size(4 * LLMPLAN_LANES), aligned(4), may_alias));

inline i64 min(i64 a, i64 b) { return a < b ? a : b; }
inline i64 max(i64 a, i64 b) { return a > b ? a : b; }

inline Vec load(const float* p) { return *reinterpret_cast<const UnalignedVec*>(p); }
inline void store(float* p, Vec v) { *reinterpret_cast<UnalignedVec*>(p) = v; }
inline Vec broadcast(float x) { return x - Vec{}; }  // not Vec{} + x: that would turn −0 into +0
// The first n < kLanes elements; the others are `rest`.
inline Vec load_part(const float* p, i64 n, float rest = 0) {
  Vec v = broadcast(rest);
  __builtin_memcpy(&v, p, static_cast<unsigned long>(n) * 4);
  return v;
}
inline void store_part(float* p, Vec v, i64 n) {
  __builtin_memcpy(p, &v, static_cast<unsigned long>(n) * 4);
}

inline Vec max(Vec a, Vec b) { return a > b ? a : b; }

// Folds a vector in half until one lane is left: always the same tree.
template <int Step>
inline Vec upper(Vec v) {  // lane i + Step in lane i, for i < Step
#if LLMPLAN_LANES == 16
  return __builtin_shufflevector(v, v, Step, Step + 1 % Step, Step + 2 % Step, Step + 3 % Step, Step + 4 % Step, Step + 5 % Step,
                                 Step + 6 % Step, Step + 7 % Step, 0, 0, 0, 0, 0, 0, 0, 0);
#elif LLMPLAN_LANES == 8
  return __builtin_shufflevector(v, v, Step, Step + 1 % Step, Step + 2 % Step, Step + 3 % Step, 0, 0, 0, 0);
#else
  return __builtin_shufflevector(v, v, Step, Step + 1 % Step, 0, 0);
#endif
}
inline float sum(Vec v) {
#if LLMPLAN_LANES >= 16
  v += upper<8>(v);
#endif
#if LLMPLAN_LANES >= 8
  v += upper<4>(v);
#endif
  v += upper<2>(v);
  v += upper<1>(v);
  return v[0];
}
inline float max_lane(Vec v) {
#if LLMPLAN_LANES >= 16
  v = max(upper<8>(v), v);
#endif
#if LLMPLAN_LANES >= 8
  v = max(upper<4>(v), v);
#endif
  v = max(upper<2>(v), v);
  v = max(upper<1>(v), v);
  return v[0];
}

constexpr float kInf = __builtin_inff();
constexpr float kLog2e = 1.44269504088896340736f;
constexpr float kLn2 = 0.69314718055994530942f;

// p · 2^round(n), where |round(n)| <= 126 and n's fraction is already in p.
inline Vec scale_by_power(Vec p, Vec rounded) {
  IVec exponent = __builtin_convertvector(rounded, IVec) + 127;
  return p * reinterpret_cast<Vec>(exponent << 23);
}
inline Vec round(Vec x) {  // to nearest even, |x| < 2^22
  const Vec magic = broadcast(12582912.0f);  // 1.5·2^23
  return (x + magic) - magic;
}

// e^x to 2 ulp for −87.3 < x < 88.3. Below, 0; above, e^88.3 (2.2e38). NaN stays NaN.
// Cody-Waite reduction x = n·ln 2 + r, |r| <= ln 2 / 2, and the degree-6 polynomial of Cephes' expf
// (S. Moshier, netlib.org/cephes).
inline Vec exp(Vec x) {
  const Vec low = broadcast(-87.3f), high = broadcast(88.3f);
  Vec tiny_mask_source = x;
  x = x < low ? low : x;
  x = x > high ? high : x;
  Vec n = round(x * kLog2e);
  Vec r = x - n * 0.693359375f;
  r = r + n * 2.12194440e-4f;
  Vec q = r * 1.9875691500e-4f + 1.3981999507e-3f;
  q = q * r + 8.3334519073e-3f;
  q = q * r + 4.1665795894e-2f;
  q = q * r + 1.6666665459e-1f;
  q = q * r + 5.0000001201e-1f;
  Vec p = q * (r * r) + r + 1.0f;
  Vec y = scale_by_power(p, n);
  return tiny_mask_source < low ? Vec{} : y;
}

// 2^x to 2 ulp for −126 <= x < 127; below, 0; above, about 2^127. NaN stays NaN. Least-maximum fit of
// (2^r − 1)/r on [−1/2, 1/2], relative error 2e-9.
inline Vec exp2(Vec x) {
  const Vec low = broadcast(-126.0f), high = broadcast(126.9f);
  Vec tiny_mask_source = x;
  x = x < low ? low : x;
  x = x > high ? high : x;
  Vec n = round(x);
  Vec r = x - n;
  Vec q = r * 1.5353362e-4f + 1.3398875e-3f;
  q = q * r + 9.6184369e-3f;
  q = q * r + 5.5503324e-2f;
  q = q * r + 2.4022648e-1f;
  q = q * r + 6.9314718e-1f;
  Vec p = q * r + 1.0f;
  Vec y = scale_by_power(p, n);
  return tiny_mask_source < low ? Vec{} : y;
}

// Calls body(column, n, part): n = kLanes, part = false for whole vectors, then once for the rest.
template <class Body>
inline void for_columns(i64 columns, Body body) {
  i64 i = 0;
  for (; i + kLanes <= columns; i += kLanes) body(i, static_cast<i64>(kLanes), false);
  if (i < columns) body(i, columns - i, true);
}
inline Vec load(const float* p, i64 n, bool part, float rest = 0) {
  return part ? load_part(p, n, rest) : load(p);
}
inline void store(float* p, Vec v, i64 n, bool part) {
  if (part) store_part(p, v, n);
  else store(p, v);
}

}  // namespace
}  // namespace llmplan::cpu::LLMPLAN_ISA
