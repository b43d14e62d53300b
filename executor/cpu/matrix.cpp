#include "executor/cpu/matrix.h"

#include <algorithm>

#include "executor/cpu/scratch.h"

namespace llmplan::cpu {
namespace {

using i64 = std::int64_t;

constexpr i64 ceil_div(i64 a, i64 b) { return (a + b - 1) / b; }

// Columns of b that are packed at once: what fits kPackedFloats, so that they stay in the L3 cache.
constexpr i64 kPackedFloats = i64{1} << 20;
i64 columns_per_block(const KernelTable& t, const Gemm& op) {
  const i64 panels = ceil_div(op.n, t.gemm_panel);
  const i64 fit = std::clamp<i64>(kPackedFloats / (std::max<i64>(op.k, 1) * t.gemm_panel), 4, 64);
  const i64 count = ceil_div(panels, fit);
  return ceil_div(panels, std::max<i64>(count, 1)) * t.gemm_panel;
}

}  // namespace

void gemm(const KernelTable& t, const Gemm& op, const float* a, const float* b, float* c, ThreadPool& pool) {
  if (op.m <= 0 || op.n <= 0) return;
  const i64 width = columns_per_block(t, op);
  const i64 lda = op.a_transposed ? op.m : op.k, ldb = op.b_transposed ? op.k : op.n;
  float* packed = scratch(ScratchUse::shared, width * std::max<i64>(op.k, 1));
  // Too small to share among threads: 2·64³ operations take about as long as waking one.
  const bool alone = static_cast<double>(op.m) * static_cast<double>(op.n) * static_cast<double>(op.k) < 64.0 * 64 * 64;
  const i64 threads = alone ? 1 : pool.threads();
  for (i64 j0 = 0; j0 < op.n; j0 += width) {
    const i64 n = std::min(width, op.n - j0), panels = ceil_div(n, t.gemm_panel);
    const PackB pack{b + (op.b_transposed ? j0 * ldb : j0), ldb, n, op.k, op.b_transposed, packed};
    const i64 pack_tiles = threads == 1 ? 1 : std::min(panels, 4 * threads);
    pool.parallel_for(pack_tiles, [&](i64 i) { t.pack_b(pack, i * panels / pack_tiles, (i + 1) * panels / pack_tiles); });

    // Strips of rows, and columns too if there are few; a few tiles for each thread, so that one that is
    // held up does not hold up the others.
    const i64 strips = ceil_div(op.m, t.gemm_rows);
    const i64 wanted = threads == 1 ? 1 : 6 * threads;
    const i64 row_tiles = std::max(ceil_div(op.m, t.gemm_max_tile_rows), std::min(strips, wanted));
    const i64 column_tiles = std::clamp<i64>(ceil_div(wanted, row_tiles), 1, panels);
    pool.parallel_for(row_tiles * column_tiles, [&](i64 i) {
      const i64 r = i / column_tiles, s = i % column_tiles;
      GemmTile tile{};
      tile.a = a, tile.packed = packed, tile.c = c + j0;
      tile.lda = lda, tile.ldc = op.n, tile.n = n, tile.k = op.k;
      tile.row_begin = std::min(op.m, r * strips / row_tiles * t.gemm_rows);
      tile.row_end = std::min(op.m, (r + 1) * strips / row_tiles * t.gemm_rows);
      tile.panel_begin = s * panels / column_tiles;
      tile.panel_end = (s + 1) * panels / column_tiles;
      tile.a_transposed = op.a_transposed, tile.accumulate = op.accumulate;
      tile.scratch = scratch(ScratchUse::tile, t.gemm_scratch);
      t.gemm_tile(tile);
    });
  }
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
