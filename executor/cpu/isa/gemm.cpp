// Matrix products, one pass of k at a time: both operands are copied to where a register tile reads them
// straight through, b in panels of kGemmPanel columns, a in strips of kRowsPerTile rows.
#include "executor/cpu/isa/entries.h"
#include "executor/cpu/isa/micro_gemm.h"

namespace llmplan::cpu::LLMPLAN_ISA {
namespace {

constexpr i64 kPanel = kGemmPanel, kStrip = kRowsPerTile, kLine = 16;  // floats of a cache line

// Asks for [p, p + n) ahead of its use; one row of a block at a time, because rows lie far apart and the
// hardware's prefetch follows one row only.
inline void fetch(const float* p, i64 n) {
  for (i64 i = 0; i < n; i += kLine) __builtin_prefetch(p + i, 0, 2);
}
// Rows ahead, for a block `width` wide: about a microsecond of packing, some times the latency of memory. May run past
// the block, into the next pass of k.
i64 rows_ahead(i64 width) { return max(4, 4096 / width); }

constexpr i64 kStripFloats = kStrip * kGemmRowPitch;

}  // namespace

// Strips lie kStripFloats apart. In it, rows keep their layout, kGemmRowPitch apart; columns (of a transposed
// a) become [depth][kStrip].
void pack_a(const float* a, i64 lda, bool transposed, i64 rows, i64 depth, float* to) {
  if (!transposed) {
    const i64 ahead = rows_ahead(depth);
    for (i64 i = 0; i < rows; ++i) {
      const float* from = a + i * lda;
      fetch(from + ahead * lda, depth);
      for_columns(depth, [&](i64 p, i64 n, bool part) { store(to + i * kGemmRowPitch + p, load(from + p, n, part), n, part); });
    }
    return;
  }
  const i64 ahead = rows_ahead(rows);
  for (i64 p = 0; p < depth; ++p) {
    const float* from = a + p * lda;
    fetch(from + ahead * lda, rows);
    float* strip = to + p * kStrip;
    i64 i = 0;
    for (; i + kStrip <= rows; i += kStrip, strip += kStripFloats) __builtin_memcpy(strip, from + i, kStrip * 4);
    for (i64 r = 0; i + r < rows; ++r) strip[r] = from[i + r];
  }
}

// Panels [depth][kPanel], the last one's missing columns zero.
void pack_b(const float* b, i64 ldb, bool transposed, i64 columns, i64 depth, float* to) {
  for (i64 j0 = 0; j0 < columns; j0 += kPanel, to += kPanel * depth) {
    const i64 jn = min(kPanel, columns - j0);
    if (jn < kPanel)
      for (i64 i = 0; i < depth * kPanel; ++i) to[i] = 0;
    if (transposed) {
      transpose(b + j0 * ldb, ldb, jn, depth, to, kPanel);
    } else if (jn == kPanel) {
      i64 wide = kPanel;  // of whole panels, taken together: more of each row at once
      while (j0 + wide + kPanel <= columns) wide += kPanel;
      const i64 ahead = rows_ahead(wide);
      for (i64 p = 0; p < depth; ++p) {
        const float* from = b + p * ldb + j0;
        fetch(from + ahead * ldb, wide);
        float* panel = to + p * kPanel;
        for (i64 w = 0; w < wide; w += kPanel, panel += kPanel * depth)
          for (i64 j = 0; j < kPanel; j += kLanes) store(panel + j, load(from + w + j));
      }
      j0 += wide - kPanel;
      to += (wide - kPanel) * depth;
    } else {
      for (i64 p = 0; p < depth; ++p)
        for (i64 j = 0; j < jn; ++j) to[p * kPanel + j] = b[p * ldb + j0 + j];
    }
  }
}

namespace {

template <A layout>
void multiply_as(const float* a, i64 rows, const float* b, i64 columns, i64 depth, float* c, i64 ldc, bool add) {
  float edge[kStrip * kPanel];
  for (i64 j = 0; j < columns; j += kPanel, b += kPanel * depth) {
    const i64 jn = min(kPanel, columns - j);
    const float* strip = a;
    for (i64 i = 0; i < rows; i += kStrip, strip += kStripFloats) {
      const i64 in = min(kStrip, rows - i), lda = layout == A::rows ? kGemmRowPitch : kStrip;
      float* to = c + i * ldc + j;
      if (j + kPanel < columns) {  // a share of the next panel
        const i64 ahead = depth * kPanel * kStrip / rows;
        fetch(b + kPanel * depth + i / kStrip * ahead, ahead);
      }
      if (jn == kPanel) {
        for (i64 r = 0; r < in; ++r) {
          __builtin_prefetch(to + r * ldc, 1);
          if (kPanel > 16) __builtin_prefetch(to + r * ldc + 16, 1);
        }
        micro_gemm_rows<2, layout>(in, depth, strip, lda, b, kPanel, to, ldc, add);
        continue;
      }
      micro_gemm_rows<2, layout>(in, depth, strip, lda, b, kPanel, edge, kPanel, false);
      for (i64 r = 0; r < in; ++r)
        for (i64 k = 0; k < jn; ++k) to[r * ldc + k] = add ? to[r * ldc + k] + edge[r * kPanel + k] : edge[r * kPanel + k];
    }
  }
}

}  // namespace

void multiply(const float* a, bool a_transposed, i64 rows, const float* b, i64 columns, i64 depth, float* c, i64 ldc, bool add) {
  if (a_transposed) multiply_as<A::columns>(a, rows, b, columns, depth, c, ldc, add);
  else multiply_as<A::rows>(a, rows, b, columns, depth, c, ldc, add);
}

}  // namespace llmplan::cpu::LLMPLAN_ISA
