// Matrix products: b is packed once per block of columns into panels that one register tile reads
// straight through; rows of a are copied, a few hundred at a time, to where they stay in the L2 cache.
#include "executor/cpu/isa/entries.h"
#include "executor/cpu/isa/micro_gemm.h"

namespace llmplan::cpu::LLMPLAN_ISA {
namespace {

constexpr i64 kPanel = kGemmPanel, kDepth = kGemmDepth;
constexpr i64 kPitch = kDepth + 16;  // an odd number of cache lines: rows fall into different cache sets

// k is cut into equal passes of at most kDepth.
i64 pass_depth(i64 k) {
  const i64 passes = max(1, (k + kDepth - 1) / kDepth);
  return (k + passes - 1) / passes;
}

}  // namespace

// Layout of `packed`: pass after pass, in it panel after panel, in it [depth][kPanel], zero-padded.
void pack_b(const PackB& t, i64 panel_begin, i64 panel_end) {
  const i64 panels = (t.n + kPanel - 1) / kPanel, depth = pass_depth(t.k);
  for (i64 k0 = 0; k0 < t.k; k0 += depth) {
    const i64 kn = min(depth, t.k - k0);
    for (i64 panel = panel_begin; panel < panel_end; ++panel) {
      float* to = t.packed + (k0 * panels + panel * kn) * kPanel;
      const i64 j0 = panel * kPanel, jn = min(kPanel, t.n - j0);
      if (jn < kPanel)
        for (i64 i = 0; i < kn * kPanel; ++i) to[i] = 0;
      if (t.transposed) {
        transpose(t.b + j0 * t.ldb + k0, t.ldb, jn, kn, to, kPanel);
      } else {
        const float* from = t.b + k0 * t.ldb + j0;
        for (i64 p = 0; p < kn; ++p, from += t.ldb, to += kPanel) {
          if (jn == kPanel) {
            for (i64 j = 0; j < kPanel; j += kLanes) store(to + j, load(from + j));
          } else {
            for (i64 j = 0; j < jn; ++j) to[j] = from[j];
          }
        }
      }
    }
  }
}

namespace {

// One block of rows, one pass of k, against all panels of the tile.
template <A layout>
void multiply_panels(const GemmTile& t, i64 rows, i64 kn, const float* a, i64 lda, const float* packed,
                     float* c, bool add) {
  const i64 step = layout == A::rows ? lda : 1;
  float edge[kRowsPerTile * kPanel];
  for (i64 panel = t.panel_begin; panel < t.panel_end; ++panel) {
    const float* b = packed + panel * kn * kPanel;
    const i64 jn = min(kPanel, t.n - panel * kPanel);
    for (i64 i = 0; i < rows; i += kRowsPerTile) {
      const i64 in = min(kRowsPerTile, rows - i);
      float* to = c + i * t.ldc + panel * kPanel;
      if (jn == kPanel) {
        micro_gemm_rows<2, layout>(in, kn, a + i * step, lda, b, kPanel, to, t.ldc, add);
        continue;
      }
      micro_gemm_rows<2, layout>(in, kn, a + i * step, lda, b, kPanel, edge, kPanel, false);
      for (i64 r = 0; r < in; ++r)
        for (i64 j = 0; j < jn; ++j)
          to[r * t.ldc + j] = add ? to[r * t.ldc + j] + edge[r * kPanel + j] : edge[r * kPanel + j];
    }
  }
}

}  // namespace

void gemm_tile(const GemmTile& t) {
  const i64 panels = (t.n + kPanel - 1) / kPanel, depth = pass_depth(t.k);
  for (i64 i0 = t.row_begin; i0 < t.row_end; i0 += kGemmMaxTileRows) {
    const i64 in = min(kGemmMaxTileRows, t.row_end - i0);
    float* c = t.c + i0 * t.ldc;
    for (i64 k0 = 0; k0 < t.k; k0 += depth) {
      const i64 kn = min(depth, t.k - k0);
      const float* packed = t.packed + k0 * panels * kPanel;
      const bool add = t.accumulate || k0 > 0;
      if (t.a_transposed) {  // columns of kRowsPerTile, as the register tile reads them
        for (i64 p = 0; p < kn; ++p) {
          const float* from = t.a + (k0 + p) * t.lda + i0;
          for (i64 i = 0; i < in; i += kRowsPerTile) {
            float* to = t.scratch + i * kn + p * kRowsPerTile;
            if (in - i >= kRowsPerTile)
              __builtin_memcpy(to, from + i, kRowsPerTile * 4);
            else
              for (i64 r = 0; r < in - i; ++r) to[r] = from[i + r];
          }
        }
        // Strips lie kRowsPerTile·kn apart, so each is its own product.
        for (i64 panel = t.panel_begin; panel < t.panel_end; ++panel) {
          GemmTile one = t;
          one.panel_begin = panel, one.panel_end = panel + 1;
          for (i64 i = 0; i < in; i += kRowsPerTile)
            multiply_panels<A::columns>(one, min(kRowsPerTile, in - i), kn, t.scratch + i * kn,
                                        kRowsPerTile, packed, c + i * t.ldc, add);
        }
      } else {
        for (i64 i = 0; i < in; ++i)
          __builtin_memcpy(t.scratch + i * kPitch, t.a + (i0 + i) * t.lda + k0,
                           static_cast<unsigned long>(kn) * 4);
        multiply_panels<A::rows>(t, in, kn, t.scratch, kPitch, packed, c, add);
      }
    }
    if (t.k == 0 && !t.accumulate)
      for (i64 i = 0; i < in; ++i)
        for (i64 j = t.panel_begin * kPanel; j < min(t.n, t.panel_end * kPanel); ++j) c[i * t.ldc + j] = 0;
  }
}

}  // namespace llmplan::cpu::LLMPLAN_ISA
