// Causal attention, within documents, in fp32 arithmetic for any number type and head size: one warp per row, no tiles. It
// is the reference that the tensor-core kernels (attention.h) are held against, and the path for fp32 and
// for head sizes that those lack.
#pragma once

#include <math.h>

#include "executor/cuda/block.h"

namespace llmplan::cuda {

struct AttentionShape {
  std::int64_t batch, seq, heads, kv_heads, head_dim;
  const std::int32_t* starts = nullptr;  // [batch·seq], the row at which a row's document begins; null: one document

  // The first key that row s sees. Documents follow one another, so it never falls as s grows.
  LLMPLAN_HD std::int64_t start(std::int64_t b, std::int64_t s) const { return starts ? starts[b * seq + s] : 0; }
  LLMPLAN_HD std::int64_t row_elements() const { return (heads + 2 * kv_heads) * head_dim; }
  LLMPLAN_HD std::int64_t group() const { return heads / kv_heads; }
  // Element offsets into packed qkv.
  LLMPLAN_HD std::int64_t q(std::int64_t b, std::int64_t s, std::int64_t head) const {
    return (b * seq + s) * row_elements() + head * head_dim;
  }
  LLMPLAN_HD std::int64_t k(std::int64_t b, std::int64_t s, std::int64_t kv_head) const {
    return (b * seq + s) * row_elements() + (heads + kv_head) * head_dim;
  }
  LLMPLAN_HD std::int64_t v(std::int64_t b, std::int64_t s, std::int64_t kv_head) const {
    return k(b, s, kv_head) + kv_heads * head_dim;
  }
  LLMPLAN_HD std::int64_t out(std::int64_t b, std::int64_t s, std::int64_t head) const {
    return ((b * seq + s) * heads + head) * head_dim;
  }
  LLMPLAN_HD std::int64_t lse(std::int64_t b, std::int64_t head) const { return (b * heads + head) * seq; }
};

inline constexpr int kReferenceWarps = 4;
inline constexpr int kMaxHeadDim = 256;
inline constexpr int kPerLane = kMaxHeadDim / 32;

template <class Block>
LLMPLAN_HD float warp_sum(Block& block, float v) {
  for (int mask = 16; mask > 0; mask >>= 1) v += block.shuffle_xor(v, mask);
  return v;
}

// One warp per (batch, head, query): online softmax over the keys in order.
template <class T>
struct AttentionReferenceKernel {
  AttentionShape shape;
  const T* qkv;
  T* out;
  float* lse;

  Launch launch() const {
    return {ceil_div(shape.batch * shape.heads * shape.seq, kReferenceWarps), 32 * kReferenceWarps, 0};
  }

  template <class Block>
  LLMPLAN_HD void operator()(Block& block) const {
    std::int64_t item = block.index() * kReferenceWarps + block.warp();
    if (item >= shape.batch * shape.heads * shape.seq) return;
    std::int64_t s = item % shape.seq, head = item / shape.seq % shape.heads, b = item / shape.seq / shape.heads;
    float scale = 1.0f / sqrtf(static_cast<float>(shape.head_dim)), q[kPerLane], acc[kPerLane];
    int n = 0;
    for (std::int64_t d = block.lane(); d < shape.head_dim; d += 32, ++n) {
      q[n] = to_float(qkv[shape.q(b, s, head) + d]) * scale;
      acc[n] = 0;
    }
    float best = -1e30f, sum = 0;
    for (std::int64_t j = shape.start(b, s); j <= s; ++j) {
      const T* k = qkv + shape.k(b, j, head / shape.group());
      const T* v = qkv + shape.v(b, j, head / shape.group());
      float dot = 0;
      for (int e = 0; e < n; ++e) dot += q[e] * to_float(k[block.lane() + 32 * e]);
      dot = warp_sum(block, dot);
      float top = fmaxf(best, dot), keep = expf(best - top), p = expf(dot - top);
      for (int e = 0; e < n; ++e) acc[e] = acc[e] * keep + p * to_float(v[block.lane() + 32 * e]);
      sum = sum * keep + p;
      best = top;
    }
    for (int e = 0; e < n; ++e) out[shape.out(b, s, head) + block.lane() + 32 * e] = from_float<T>(acc[e] / sum);
    if (block.lane() == 0) lse[shape.lse(b, head) + s] = best + logf(sum);
  }
};

// delta[b,head,s] = Σ_d dout·out; one warp per (batch, head, query).
template <class T>
struct AttentionDeltaKernel {
  AttentionShape shape;
  const T* out;
  const T* dout;
  float* delta;

  Launch launch() const {
    return {ceil_div(shape.batch * shape.heads * shape.seq, kReferenceWarps), 32 * kReferenceWarps, 0};
  }

  template <class Block>
  LLMPLAN_HD void operator()(Block& block) const {
    std::int64_t item = block.index() * kReferenceWarps + block.warp();
    if (item >= shape.batch * shape.heads * shape.seq) return;
    std::int64_t s = item % shape.seq, head = item / shape.seq % shape.heads, b = item / shape.seq / shape.heads;
    float sum = 0;
    for (std::int64_t d = block.lane(); d < shape.head_dim; d += 32)
      sum += to_float(out[shape.out(b, s, head) + d]) * to_float(dout[shape.out(b, s, head) + d]);
    sum = warp_sum(block, sum);
    if (block.lane() == 0) delta[shape.lse(b, head) + s] = sum;
  }
};

// dq of one (batch, head, query) per warp, keys in order.
template <class T>
struct AttentionReferenceGradQKernel {
  AttentionShape shape;
  const T* qkv;
  const T* dout;
  const float* lse;
  const float* delta;
  T* dqkv;

  Launch launch() const {
    return {ceil_div(shape.batch * shape.heads * shape.seq, kReferenceWarps), 32 * kReferenceWarps, 0};
  }

  template <class Block>
  LLMPLAN_HD void operator()(Block& block) const {
    std::int64_t item = block.index() * kReferenceWarps + block.warp();
    if (item >= shape.batch * shape.heads * shape.seq) return;
    std::int64_t s = item % shape.seq, head = item / shape.seq % shape.heads, b = item / shape.seq / shape.heads;
    float scale = 1.0f / sqrtf(static_cast<float>(shape.head_dim)), q[kPerLane], g[kPerLane], dq[kPerLane];
    int n = 0;
    for (std::int64_t d = block.lane(); d < shape.head_dim; d += 32, ++n) {
      q[n] = to_float(qkv[shape.q(b, s, head) + d]) * scale;
      g[n] = to_float(dout[shape.out(b, s, head) + d]);
      dq[n] = 0;
    }
    float row_lse = lse[shape.lse(b, head) + s], row_delta = delta[shape.lse(b, head) + s];
    for (std::int64_t j = shape.start(b, s); j <= s; ++j) {
      const T* k = qkv + shape.k(b, j, head / shape.group());
      const T* v = qkv + shape.v(b, j, head / shape.group());
      float score = 0, dp = 0;
      for (int e = 0; e < n; ++e) {
        score += q[e] * to_float(k[block.lane() + 32 * e]);
        dp += g[e] * to_float(v[block.lane() + 32 * e]);
      }
      score = warp_sum(block, score);
      dp = warp_sum(block, dp);
      float ds = expf(score - row_lse) * (dp - row_delta) * scale;
      for (int e = 0; e < n; ++e) dq[e] += ds * to_float(k[block.lane() + 32 * e]);
    }
    for (int e = 0; e < n; ++e) dqkv[shape.q(b, s, head) + block.lane() + 32 * e] = from_float<T>(dq[e]);
  }
};

// dk and dv of one (batch, kv head, key) per warp: over the heads of the group, then the queries, in order.
template <class T>
struct AttentionReferenceGradKVKernel {
  AttentionShape shape;
  const T* qkv;
  const T* dout;
  const float* lse;
  const float* delta;
  T* dqkv;

  Launch launch() const {
    return {ceil_div(shape.batch * shape.kv_heads * shape.seq, kReferenceWarps), 32 * kReferenceWarps, 0};
  }

  template <class Block>
  LLMPLAN_HD void operator()(Block& block) const {
    std::int64_t item = block.index() * kReferenceWarps + block.warp();
    if (item >= shape.batch * shape.kv_heads * shape.seq) return;
    std::int64_t j = item % shape.seq, kv = item / shape.seq % shape.kv_heads, b = item / shape.seq / shape.kv_heads;
    float scale = 1.0f / sqrtf(static_cast<float>(shape.head_dim));
    float k[kPerLane], v[kPerLane], dk[kPerLane], dv[kPerLane];
    int n = 0;
    for (std::int64_t d = block.lane(); d < shape.head_dim; d += 32, ++n) {
      k[n] = to_float(qkv[shape.k(b, j, kv) + d]) * scale;
      v[n] = to_float(qkv[shape.v(b, j, kv) + d]);
      dk[n] = dv[n] = 0;
    }
    for (std::int64_t head = kv * shape.group(); head < (kv + 1) * shape.group(); ++head) {
      for (std::int64_t s = j; s < shape.seq && shape.start(b, s) <= j; ++s) {
        const T* q = qkv + shape.q(b, s, head);
        const T* g = dout + shape.out(b, s, head);
        float score = 0, dp = 0;
        for (int e = 0; e < n; ++e) {
          score += k[e] * to_float(q[block.lane() + 32 * e]);
          dp += v[e] * to_float(g[block.lane() + 32 * e]);
        }
        score = warp_sum(block, score);
        dp = warp_sum(block, dp);
        float p = expf(score - lse[shape.lse(b, head) + s]);
        float ds = p * (dp - delta[shape.lse(b, head) + s]) * scale;
        for (int e = 0; e < n; ++e) {
          dv[e] += p * to_float(g[block.lane() + 32 * e]);
          dk[e] += ds * to_float(q[block.lane() + 32 * e]);
        }
      }
    }
    for (int e = 0; e < n; ++e) {
      dqkv[shape.k(b, j, kv) + block.lane() + 32 * e] = from_float<T>(dk[e]);
      dqkv[shape.v(b, j, kv) + block.lane() + 32 * e] = from_float<T>(dv[e]);
    }
  }
};

}  // namespace llmplan::cuda
