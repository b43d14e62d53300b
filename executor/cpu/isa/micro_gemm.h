// The inner kernel of every matrix product: a register tile of c, one column of a and one row of b at a
// time. Each element of c is one chain of multiply-adds in the order of k, so neither the shape of the
// tile nor its place in the matrix changes a bit of the result.
#pragma once

#include "executor/cpu/isa/vec.h"

namespace llmplan::cpu::LLMPLAN_ISA {
namespace {

// How a(i, k) lies in memory: rows, a[i·lda + k], or columns, a[i + k·lda].
enum class A { rows, columns };

// c[MR, NV·kLanes] = or += a·b, b[k, NV·kLanes] with rows `ldb` apart.
template <int MR, int NV, A layout>
inline void micro_gemm(i64 depth, const float* __restrict a, i64 lda, const float* __restrict b, i64 ldb,
                       float* __restrict c, i64 ldc, bool add) {
  Vec acc[MR][NV];
#pragma GCC unroll 16
  for (int i = 0; i < MR; ++i)
#pragma GCC unroll 4
    for (int j = 0; j < NV; ++j) acc[i][j] = Vec{};
  for (i64 p = 0; p < depth; ++p) {
    Vec row[NV];
#pragma GCC unroll 4
    for (int j = 0; j < NV; ++j) row[j] = load(b + j * kLanes);
#pragma GCC unroll 16
    for (int i = 0; i < MR; ++i) {
      const Vec x = broadcast(layout == A::rows ? a[i * lda] : a[i]);
#pragma GCC unroll 4
      for (int j = 0; j < NV; ++j) acc[i][j] += x * row[j];
    }
    a += layout == A::rows ? 1 : lda;
    b += ldb;
  }
#pragma GCC unroll 16
  for (int i = 0; i < MR; ++i) {
#pragma GCC unroll 4
    for (int j = 0; j < NV; ++j) {
      float* to = c + i * ldc + j * kLanes;
      store(to, add ? load(to) + acc[i][j] : acc[i][j]);
    }
  }
}

// A strip of `rows` <= kRowsPerTile rows.
template <int NV, A layout>
inline void micro_gemm_rows(i64 rows, i64 depth, const float* a, i64 lda, const float* b, i64 ldb, float* c,
                            i64 ldc, bool add) {
  const i64 step = layout == A::rows ? lda : 1;
  if (rows == kRowsPerTile) {
    micro_gemm<kRowsPerTile, NV, layout>(depth, a, lda, b, ldb, c, ldc, add);
    return;
  }
  i64 i = 0;
  if constexpr (kRowsPerTile > 8) {
    if (rows - i >= 8) {
      micro_gemm<8, NV, layout>(depth, a + i * step, lda, b, ldb, c + i * ldc, ldc, add);
      i += 8;
    }
  }
  if (rows - i >= 4) {
    micro_gemm<4, NV, layout>(depth, a + i * step, lda, b, ldb, c + i * ldc, ldc, add);
    i += 4;
  }
  if (rows - i >= 2) {
    micro_gemm<2, NV, layout>(depth, a + i * step, lda, b, ldb, c + i * ldc, ldc, add);
    i += 2;
  }
  if (rows - i >= 1)
    micro_gemm<1, NV, layout>(depth, a + i * step, lda, b, ldb, c + i * ldc, ldc, add);
}

// What of a product with a triangular matrix need not be computed. In a causal block on the diagonal, row i of
// the scores ends at column i.
enum class Skip {
  nothing,
  upper_c,      // c(i, j) for j > i is not wanted (some of it is computed)
  upper_a,      // a(i, k) is zero for k > i
  lower_a,      // a(i, k) is zero for k < i
};

template <int NV, A layout>
inline void block_gemm_panel(Skip skip, i64 m, i64 j, i64 depth, const float* a, i64 lda, const float* b, i64 ldb, float* c,
                             i64 ldc, bool add) {
  const i64 step = layout == A::rows ? lda : 1, k_step = layout == A::rows ? 1 : lda;
  for (i64 i = 0; i < m; i += kRowsPerTile) {
    const i64 rows = min(kRowsPerTile, m - i);
    if (skip == Skip::upper_c && j >= i + rows) continue;
    const i64 begin = skip == Skip::lower_a ? min(i, depth) : 0;
    const i64 end = skip == Skip::upper_a ? min(i + rows, depth) : depth;
    micro_gemm_rows<NV, layout>(rows, end - begin, a + i * step + begin * k_step, lda, b + begin * ldb + j, ldb, c + i * ldc + j,
                                ldc, add);
  }
}

// A small product on operands that lie in the cache: n a multiple of kLanes.
template <A layout>
inline void block_gemm(Skip skip, i64 m, i64 n, i64 depth, const float* a, i64 lda, const float* b, i64 ldb, float* c, i64 ldc,
                       bool add) {
  i64 j = 0;
  for (; j + 2 * kLanes <= n; j += 2 * kLanes) block_gemm_panel<2, layout>(skip, m, j, depth, a, lda, b, ldb, c, ldc, add);
  if (j < n) block_gemm_panel<1, layout>(skip, m, j, depth, a, lda, b, ldb, c, ldc, add);
}

template <int... I>
struct Lanes {};
template <class>
struct Shuffle;
template <int... I>
struct Shuffle<Lanes<I...>> {
  // a0 b0 a1 b1 … of the lower, or the upper, halves.
  static Vec low(Vec a, Vec b) { return __builtin_shufflevector(a, b, (I / 2 + I % 2 * kLanes)...); }
  static Vec high(Vec a, Vec b) {
    return __builtin_shufflevector(a, b, (kLanes / 2 + I / 2 + I % 2 * kLanes)...);
  }
};
#if LLMPLAN_LANES == 16
using Interleave = Shuffle<Lanes<0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15>>;
#elif LLMPLAN_LANES == 8
using Interleave = Shuffle<Lanes<0, 1, 2, 3, 4, 5, 6, 7>>;
#else
using Interleave = Shuffle<Lanes<0, 1, 2, 3>>;
#endif

// to[j·ldt + i] = from[i·ldf + j] for a square of kLanes: log2(kLanes) perfect shuffles of its rows.
inline void transpose_square(const float* from, i64 ldf, float* to, i64 ldt) {
  Vec x[kLanes], y[kLanes];
#pragma GCC unroll 16
  for (int i = 0; i < kLanes; ++i) x[i] = load(from + i * ldf);
#pragma GCC unroll 4
  for (int step = 1; step < kLanes; step *= 2) {
#pragma GCC unroll 8
    for (int i = 0; i < kLanes / 2; ++i) {
      y[2 * i] = Interleave::low(x[i], x[i + kLanes / 2]);
      y[2 * i + 1] = Interleave::high(x[i], x[i + kLanes / 2]);
    }
#pragma GCC unroll 16
    for (int i = 0; i < kLanes; ++i) x[i] = y[i];
  }
#pragma GCC unroll 16
  for (int i = 0; i < kLanes; ++i) store(to + i * ldt, x[i]);
}

// to[columns, ldt] = fromᵀ, from[rows, columns] with rows `ldf` apart; columns rows … ldt−1 are not touched.
inline void transpose(const float* from, i64 ldf, i64 rows, i64 columns, float* to, i64 ldt) {
  i64 i = 0;
  for (; i + kLanes <= rows; i += kLanes) {
    i64 j = 0;
    for (; j + kLanes <= columns; j += kLanes) transpose_square(from + i * ldf + j, ldf, to + j * ldt + i, ldt);
    for (; j < columns; ++j)
      for (i64 r = i; r < i + kLanes; ++r) to[j * ldt + r] = from[r * ldf + j];
  }
  for (; i < rows; ++i)
    for (i64 j = 0; j < columns; ++j) to[j * ldt + i] = from[i * ldf + j];
}

}  // namespace
}  // namespace llmplan::cpu::LLMPLAN_ISA
