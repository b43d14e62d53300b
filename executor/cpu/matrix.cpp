#include "executor/cpu/matrix.h"

#include <algorithm>

#include "executor/cpu/scratch.h"

namespace llmplan::cpu {
namespace {

using i64 = std::int64_t;

constexpr i64 ceil_div(i64 a, i64 b) { return (a + b - 1) / b; }

// How a product is divided. k is cut into equal passes; some passes together make a block for which one
// operand is packed once, by all threads, for all of them. c is divided into tiles, and a tile packs the
// other operand for itself, a piece that stays in the L2 cache at a time. None of this but the passes
// touches the order in which an element is summed.
struct GemmRun {
  const KernelTable& t;
  const Gemm& op;
  const float *a, *b;
  float* c;
  ThreadPool& pool;
  i64 threads, depth;

  const float* a_at(i64 i, i64 p) const { return op.a_transposed ? a + p * op.m + i : a + i * op.k + p; }
  const float* b_at(i64 p, i64 j) const { return op.b_transposed ? b + j * op.k + p : b + p * op.n + j; }
  i64 lda() const { return op.a_transposed ? op.m : op.k; }
  i64 ldb() const { return op.b_transposed ? op.k : op.n; }
  i64 packed_a(i64 rows) const { return ceil_div(rows, t.gemm_rows) * t.gemm_rows * t.gemm_row_floats; }
  i64 packed_b(i64 columns, i64 k) const { return ceil_div(columns, t.gemm_panel) * t.gemm_panel * k; }
  i64 tiles_wanted() const { return threads == 1 ? 1 : 6 * threads; }  // some for each, should one be held up
  bool adds(i64 p) const { return op.accumulate || p > 0; }

  void share_b();
  void share_a();
};

constexpr i64 kSharedFloats = i64{1} << 20;  // 4 MiB: stays in the L3 cache
constexpr i64 kTileFloats = i64{1} << 16;    // 256 KiB: a quarter of a small L2 cache, and half

// Many rows: blocks of b, tiles of rows.
void GemmRun::share_b() {
  const i64 width = std::min(ceil_div(op.n, t.gemm_panel), std::max<i64>(8, kSharedFloats / (t.gemm_panel * depth))) * t.gemm_panel;
  const i64 passes = std::max<i64>(1, kSharedFloats / (width * depth));
  float* shared = scratch(ScratchUse::shared, width * depth * std::min(passes, ceil_div(op.k, depth)));
  const i64 most_rows = std::max<i64>(1, kTileFloats / t.gemm_row_floats / t.gemm_rows) * t.gemm_rows;
  const i64 strips = ceil_div(op.m, t.gemm_rows);
  for (i64 j0 = 0; j0 < op.n; j0 += width) {
    const i64 n = std::min(width, op.n - j0), panels = ceil_div(n, t.gemm_panel);
    for (i64 k0 = 0; k0 < op.k; k0 += passes * depth) {
      const i64 k1 = std::min(op.k, k0 + passes * depth);
      const i64 pack_tiles = threads == 1 ? 1 : std::min(panels, 4 * threads);
      pool.parallel_for(pack_tiles, [&](i64 i) {
        const i64 begin = i * panels / pack_tiles * t.gemm_panel, end = std::min(n, (i + 1) * panels / pack_tiles * t.gemm_panel);
        for (i64 p = k0; p < k1; p += depth) {
          const i64 kn = std::min(depth, k1 - p);
          t.pack_b(b_at(p, j0 + begin), ldb(), op.b_transposed, end - begin, kn, shared + packed_b(n, p - k0) + begin * kn);
        }
      });
      const i64 row_tiles = std::max(ceil_div(op.m, most_rows), std::min(strips, tiles_wanted()));
      const i64 column_tiles = std::clamp<i64>(ceil_div(tiles_wanted(), row_tiles), 1, panels);
      pool.parallel_for(row_tiles * column_tiles, [&](i64 i) {
        const i64 r = i / column_tiles, s = i % column_tiles;
        const i64 j = s * panels / column_tiles * t.gemm_panel, jn = std::min(n, (s + 1) * panels / column_tiles * t.gemm_panel) - j;
        const i64 row_end = std::min(op.m, (r + 1) * strips / row_tiles * t.gemm_rows);
        float* own = scratch(ScratchUse::tile, packed_a(most_rows));
        for (i64 row = r * strips / row_tiles * t.gemm_rows; row < row_end; row += most_rows) {
          const i64 rows = std::min(most_rows, row_end - row);
          for (i64 p = k0; p < k1; p += depth) {
            const i64 kn = std::min(depth, k1 - p);
            t.pack_a(a_at(row, p), lda(), op.a_transposed, rows, kn, own);
            t.multiply(own, op.a_transposed, rows, shared + packed_b(n, p - k0) + j * kn, jn, kn,
                       c + row * op.n + j0 + j, op.n, adds(p));
          }
        }
      });
    }
  }
}

// Few rows: blocks of a, tiles of columns.
void GemmRun::share_a() {
  const i64 height = std::min(ceil_div(op.m, t.gemm_rows), std::max<i64>(8, kSharedFloats / (t.gemm_row_floats * t.gemm_rows))) * t.gemm_rows;
  const i64 passes = std::min(ceil_div(op.k, depth), std::max<i64>(1, kSharedFloats / packed_a(height)));
  float* shared = scratch(ScratchUse::shared, packed_a(height) * passes);
  const i64 panels = ceil_div(op.n, t.gemm_panel), most_panels = std::max<i64>(1, kTileFloats / (t.gemm_panel * depth));
  for (i64 i0 = 0; i0 < op.m; i0 += height) {
    const i64 m = std::min(height, op.m - i0);
    for (i64 k0 = 0; k0 < op.k; k0 += passes * depth) {
      const i64 k1 = std::min(op.k, k0 + passes * depth);
      // With columns as strips, a strip's place depends on the pass's depth: pack whole passes.
      const i64 pieces = ceil_div(k1 - k0, depth);
      pool.parallel_for(threads == 1 ? 1 : pieces, [&](i64 i) {
        for (i64 q = threads == 1 ? 0 : i; q < (threads == 1 ? pieces : i + 1); ++q)
          t.pack_a(a_at(i0, k0 + q * depth), lda(), op.a_transposed, m, std::min(depth, k1 - k0 - q * depth), shared + q * packed_a(height));
      });
      const i64 column_tiles = std::clamp<i64>(std::max(tiles_wanted(), panels / most_panels), 1, panels);
      pool.parallel_for(column_tiles, [&](i64 i) {
        float* own = scratch(ScratchUse::tile, packed_b(most_panels * t.gemm_panel, depth));
        const i64 end = std::min(op.n, (i + 1) * panels / column_tiles * t.gemm_panel);
        for (i64 j = i * panels / column_tiles * t.gemm_panel; j < end; j += most_panels * t.gemm_panel) {
          const i64 jn = std::min(most_panels * t.gemm_panel, end - j);
          for (i64 p = k0, q = 0; p < k1; p += depth, ++q) {
            const i64 kn = std::min(depth, k1 - p);
            t.pack_b(b_at(p, j), ldb(), op.b_transposed, jn, kn, own);
            t.multiply(shared + q * packed_a(height), op.a_transposed, m, own, jn, kn, c + i0 * op.n + j, op.n, adds(p));
          }
        }
      });
    }
  }
}

}  // namespace

void gemm(const KernelTable& t, const Gemm& op, const float* a, const float* b, float* c, ThreadPool& pool) {
  if (op.m <= 0 || op.n <= 0) return;
  if (op.k <= 0) {
    if (!op.accumulate) std::fill_n(c, op.m * op.n, 0.0f);
    return;
  }
  // Too small to share among threads: 2·64³ operations take about as long as waking one.
  const bool alone = static_cast<double>(op.m) * static_cast<double>(op.n) * static_cast<double>(op.k) < 64.0 * 64 * 64;
  const i64 depth = ceil_div(op.k, ceil_div(op.k, t.gemm_depth));
  GemmRun run{t, op, a, b, c, pool, alone ? 1 : pool.threads(), depth};
  if (op.n > op.m && op.m <= 1024) run.share_a();
  else run.share_b();
}

namespace {

// Attention's rows, cut into `parts` ranges of whole blocks.
AttentionRange range_of(const KernelTable& t, i64 seq, i64 batch, i64 kv_head, i64 part, i64 parts) {
  const i64 blocks = ceil_div(seq, t.attention_block);
  return {batch, kv_head, std::min(seq, part * blocks / parts * t.attention_block),
          std::min(seq, (part + 1) * blocks / parts * t.attention_block)};
}

}  // namespace

void attention(const KernelTable& t, const Attention& op, const float* qkv, float* out, float* lse, ThreadPool& pool) {
  const i64 pairs = op.batch * op.kv_heads, blocks = ceil_div(op.seq, t.attention_block);
  // Each part prepares the keys again, so no more parts than the threads need.
  const i64 parts = pool.threads() == 1 ? 1 : std::clamp<i64>(ceil_div(2 * pool.threads(), std::max<i64>(pairs, 1)), 1, blocks);
  pool.parallel_for(pairs * parts, [&](i64 i) {
    // Later rows see more keys: the longest first.
    const AttentionRange range = range_of(t, op.seq, i % pairs / op.kv_heads, i % pairs % op.kv_heads, parts - 1 - i / pairs, parts);
    t.attention(op, range, qkv, out, lse, scratch(ScratchUse::tile, t.attention_scratch(op.seq, op.head_dim)));
  });
}

void attention_grad(const KernelTable& t, const AttentionGrad& op, const float* qkv, const float* out, const float* lse,
                    const float* dout, float* dqkv, float* delta, ThreadPool& pool) {
  const i64 pairs = op.batch * op.kv_heads, blocks = ceil_div(op.seq, t.attention_block);
  const i64 threads = pool.threads();
  const i64 floats = t.attention_grad_scratch(op.seq, op.head_dim);
  // One pass computes five products per block and knows no finer division than a pair; two passes, dq and
  // then dk with dv, compute seven and divide by rows. Every sum has the same order in both.
  const double rounds = static_cast<double>(ceil_div(pairs, threads));
  const bool two_passes = threads > 1 && blocks > 1 && 5 * rounds > 7.5 * static_cast<double>(pairs) / static_cast<double>(threads);
  const i64 parts = two_passes ? std::clamp<i64>(ceil_div(3 * threads, std::max<i64>(pairs, 1)), 1, blocks) : 1;
  const auto part = [&](i64 i, bool last_first) {
    const i64 p = i / pairs;
    return range_of(t, op.seq, i % pairs / op.kv_heads, i % pairs % op.kv_heads, last_first ? parts - 1 - p : p, parts);
  };
  if (!two_passes) {
    pool.parallel_for(pairs, [&](i64 i) {
      t.attention_delta(op, part(i, false), out, dout, delta);
      t.attention_grad(op, part(i, false), true, true, qkv, lse, dout, delta, dqkv, scratch(ScratchUse::tile, floats));
    });
    return;
  }
  pool.parallel_for(pairs * parts, [&](i64 i) {
    t.attention_delta(op, part(i, true), out, dout, delta);
    t.attention_grad(op, part(i, true), true, false, qkv, lse, dout, delta, dqkv, scratch(ScratchUse::tile, floats));
  });
  pool.parallel_for(pairs * parts, [&](i64 i) {
    t.attention_grad(op, part(i, false), false, true, qkv, lse, dout, delta, dqkv, scratch(ScratchUse::tile, floats));
  });
}

}  // namespace llmplan::cpu
