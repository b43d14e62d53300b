// How a matrix product is divided. k is cut into equal passes; some passes together make a block for which one
// operand is packed once, by all threads, for all of them. c is divided into tiles, and a tile packs the
// other operand for itself, a piece that stays in the L2 cache at a time. None of this but the passes
// touches the order in which an element is summed.
#include <algorithm>

#include "executor/cpu/products.h"
#include "executor/cpu/scratch.h"

namespace llmplan::cpu {
namespace {

using i64 = std::int64_t;

constexpr i64 ceil_div(i64 a, i64 b) { return (a + b - 1) / b; }

constexpr i64 kSharedFloats = i64{1} << 19;  // 2 MiB: stays in the L3 cache
constexpr i64 kTileFloats = i64{1} << 16;    // 256 KiB: a quarter of a small L2 cache, and half

struct GemmPlan {
  bool share_a;     // few rows: blocks of a, tiles of columns; else blocks of b, tiles of rows
  i64 depth;        // of a pass
  i64 block;        // rows of a, or columns of b, that are packed at once; whole strips or panels
  i64 passes;       // that they are packed for
  i64 piece;        // columns, or rows, that a tile packs at a time
  i64 shared_floats, tile_floats;
};

GemmPlan plan_of(const KernelTable& t, const Gemm& op) {
  GemmPlan p{};
  p.share_a = op.n > op.m && op.m <= 1024;
  p.depth = ceil_div(op.k, ceil_div(op.k, t.gemm_depth));
  const i64 strips = ceil_div(op.m, t.gemm_rows), panels = ceil_div(op.n, t.gemm_panel);
  const i64 strip = t.gemm_strip_floats, panel = t.gemm_panel * p.depth;  // floats of one, packed
  const i64 all = ceil_div(op.k, p.depth);
  const i64 whole = p.share_a ? strips : panels, most = kSharedFloats / (p.share_a ? strip : panel);
  const i64 count = ceil_div(whole, ceil_div(whole, most));  // blocks of about the same size
  p.block = count * (p.share_a ? t.gemm_rows : t.gemm_panel);
  const i64 floats = count * (p.share_a ? strip : panel);
  p.passes = std::clamp<i64>(kSharedFloats / floats, 1, all);
  p.shared_floats = floats * p.passes;
  const i64 own = p.share_a ? std::min(panels, kTileFloats / panel) : std::min(strips, kTileFloats / strip);
  p.piece = own * (p.share_a ? t.gemm_panel : t.gemm_rows);
  p.tile_floats = own * (p.share_a ? panel : strip);
  return p;
}

struct GemmRun {
  const KernelTable& t;
  const Gemm& op;
  const GemmPlan plan;
  const float *a, *b;
  float* c;
  ThreadPool& pool;
  i64 threads;

  const float* a_at(i64 i, i64 p) const { return op.a_transposed ? a + p * op.m + i : a + i * op.k + p; }
  const float* b_at(i64 p, i64 j) const { return op.b_transposed ? b + j * op.k + p : b + p * op.n + j; }
  i64 lda() const { return op.a_transposed ? op.m : op.k; }
  i64 ldb() const { return op.b_transposed ? op.k : op.n; }
  i64 packed_a(i64 rows) const { return ceil_div(rows, t.gemm_rows) * t.gemm_strip_floats; }
  i64 packed_b(i64 columns, i64 k) const { return ceil_div(columns, t.gemm_panel) * t.gemm_panel * k; }
  i64 tiles_wanted() const { return threads == 1 ? 1 : 6 * threads; }  // some for each, should one be held up
  bool adds(i64 p) const { return op.accumulate || p > 0; }

  // body(begin, end) for `tiles` nearly equal parts of [0, count), begin and end multiples of `unit` or count.
  template <class Body>
  void split(i64 count, i64 unit, i64 tiles, Body body) const {
    const i64 units = ceil_div(count, unit);
    tiles = threads == 1 ? 1 : std::clamp<i64>(tiles, 1, units);
    pool.parallel_for(tiles, [&](i64 i) { body(i * units / tiles * unit, std::min(count, (i + 1) * units / tiles * unit)); });
  }
  template <class Body>
  void for_passes(i64 k0, i64 k1, Body body) const {
    for (i64 p = k0; p < k1; p += plan.depth) body(p, std::min(plan.depth, k1 - p));
  }

  void share_b(float* shared, i64 j0, i64 n, i64 k0, i64 k1) const;
  void share_a(float* shared, i64 i0, i64 m, i64 k0, i64 k1) const;
};

// Columns [j0, j0 + n) of c, passes from k0 to k1.
void GemmRun::share_b(float* shared, i64 j0, i64 n, i64 k0, i64 k1) const {
  split(n, t.gemm_panel, 4 * threads, [&](i64 begin, i64 end) {
    for_passes(k0, k1, [&](i64 p, i64 kn) {
      t.pack_b(b_at(p, j0 + begin), ldb(), op.b_transposed, end - begin, kn, shared + packed_b(n, p - k0) + begin * kn);
    });
  });
  const i64 panels = ceil_div(n, t.gemm_panel), strips = ceil_div(op.m, t.gemm_rows);
  const i64 row_tiles = std::max(ceil_div(op.m, plan.piece), std::min(strips, tiles_wanted()));
  const i64 column_tiles = std::clamp<i64>(ceil_div(tiles_wanted(), row_tiles), 1, panels);
  pool.parallel_for(row_tiles * column_tiles, [&](i64 i) {
    const i64 r = i / column_tiles, s = i % column_tiles;
    const i64 j = s * panels / column_tiles * t.gemm_panel, j_end = std::min(n, (s + 1) * panels / column_tiles * t.gemm_panel);
    const i64 row_end = std::min(op.m, (r + 1) * strips / row_tiles * t.gemm_rows);
    float* own = scratch(ScratchUse::tile, plan.tile_floats);
    for (i64 row = r * strips / row_tiles * t.gemm_rows; row < row_end; row += plan.piece) {
      const i64 rows = std::min(plan.piece, row_end - row);
      for_passes(k0, k1, [&](i64 p, i64 kn) {
        t.pack_a(a_at(row, p), lda(), op.a_transposed, rows, kn, own);
        t.multiply(own, op.a_transposed, rows, shared + packed_b(n, p - k0) + j * kn, j_end - j, kn, c + row * op.n + j0 + j, op.n,
                   adds(p));
      });
    }
  });
}

// Rows [i0, i0 + m) of c, passes from k0 to k1.
void GemmRun::share_a(float* shared, i64 i0, i64 m, i64 k0, i64 k1) const {
  const auto pass = [&](i64 p) { return shared + (p - k0) / plan.depth * packed_a(m); };
  split(m, t.gemm_rows, m * (k1 - k0) < kTileFloats ? 1 : 4 * threads, [&](i64 begin, i64 end) {
    for_passes(k0, k1, [&](i64 p, i64 kn) {
      t.pack_a(a_at(i0 + begin, p), lda(), op.a_transposed, end - begin, kn, pass(p) + packed_a(begin));
    });
  });
  split(op.n, t.gemm_panel, std::max(tiles_wanted(), op.n / plan.piece), [&](i64 begin, i64 end) {
    float* own = scratch(ScratchUse::tile, plan.tile_floats);
    for (i64 j = begin; j < end; j += plan.piece) {
      const i64 columns = std::min(plan.piece, end - j);
      for_passes(k0, k1, [&](i64 p, i64 kn) {
        t.pack_b(b_at(p, j), ldb(), op.b_transposed, columns, kn, own);
        t.multiply(pass(p), op.a_transposed, m, own, columns, kn, c + i0 * op.n + j, op.n, adds(p));
      });
    }
  });
}

}  // namespace

ScratchFloats gemm_scratch(const KernelTable& t, const Gemm& op) {
  if (op.m <= 0 || op.n <= 0 || op.k <= 0) return {0, 0};
  const GemmPlan plan = plan_of(t, op);
  return {plan.shared_floats, plan.tile_floats};
}

void gemm(const KernelTable& t, const Gemm& op, const float* a, const float* b, float* c, ThreadPool& pool) {
  if (op.m <= 0 || op.n <= 0) return;
  if (op.k <= 0) {
    if (!op.accumulate) std::fill_n(c, op.m * op.n, 0.0f);
    return;
  }
  // Too small to share among threads: 2·64³ operations take about as long as waking one.
  const bool alone = static_cast<double>(op.m) * static_cast<double>(op.n) * static_cast<double>(op.k) < 64.0 * 64 * 64;
  const GemmRun run{t, op, plan_of(t, op), a, b, c, pool, alone ? 1 : pool.threads()};
  const GemmPlan& plan = run.plan;
  float* shared = scratch(ScratchUse::shared, plan.shared_floats);
  const i64 count = plan.share_a ? op.m : op.n;
  for (i64 at = 0; at < count; at += plan.block)
    for (i64 k0 = 0; k0 < op.k; k0 += plan.passes * plan.depth) {
      const i64 size = std::min(plan.block, count - at), k1 = std::min(op.k, k0 + plan.passes * plan.depth);
      if (plan.share_a) run.share_a(shared, at, size, k0, k1);
      else run.share_b(shared, at, size, k0, k1);
    }
}

}  // namespace llmplan::cpu
