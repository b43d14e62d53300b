// How attention is divided among threads.
#include <algorithm>

#include "executor/cpu/products.h"
#include "executor/cpu/scratch.h"

namespace llmplan::cpu {
namespace {

using i64 = std::int64_t;

constexpr i64 ceil_div(i64 a, i64 b) { return (a + b - 1) / b; }

// Attention's rows, cut into `parts` ranges of whole blocks.
AttentionRange range_of(const KernelTable& t, i64 seq, i64 batch, i64 kv_head, i64 part, i64 parts) {
  const i64 blocks = ceil_div(seq, t.attention_block);
  return {batch, kv_head, std::min(seq, part * blocks / parts * t.attention_block),
          std::min(seq, (part + 1) * blocks / parts * t.attention_block)};
}

}  // namespace

void attention(const KernelTable& t, const Attention& op, const float* qkv, const std::int32_t* starts, float* out, float* lse, ThreadPool& pool) {
  const i64 pairs = op.batch * op.kv_heads, blocks = ceil_div(op.seq, t.attention_block);
  // Each part prepares the keys again, so no more parts than the threads need.
  const i64 parts = pool.threads() == 1 ? 1 : std::clamp<i64>(ceil_div(2 * pool.threads(), std::max<i64>(pairs, 1)), 1, blocks);
  pool.parallel_for(pairs * parts, [&](i64 i) {
    // Later rows see more keys: the longest first.
    const AttentionRange range = range_of(t, op.seq, i % pairs / op.kv_heads, i % pairs % op.kv_heads, parts - 1 - i / pairs, parts);
    t.attention(op, range, qkv, starts, out, lse, scratch(ScratchUse::tile, t.attention_scratch(op.seq, op.head_dim)));
  });
}

void attention_grad(const KernelTable& t, const AttentionGrad& op, const float* qkv, const std::int32_t* starts, const float* out, const float* lse,
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
      t.attention_grad(op, part(i, false), true, true, qkv, starts, lse, dout, delta, dqkv, scratch(ScratchUse::tile, floats));
    });
    return;
  }
  pool.parallel_for(pairs * parts, [&](i64 i) {
    t.attention_delta(op, part(i, true), out, dout, delta);
    t.attention_grad(op, part(i, true), true, false, qkv, starts, lse, dout, delta, dqkv, scratch(ScratchUse::tile, floats));
  });
  pool.parallel_for(pairs * parts, [&](i64 i) {
    t.attention_grad(op, part(i, false), false, true, qkv, starts, lse, dout, delta, dqkv, scratch(ScratchUse::tile, floats));
  });
}

}  // namespace llmplan::cpu
