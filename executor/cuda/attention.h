// Flash attention in bf16 and fp16 on tensor cores (mma.sync, sm_80 and later): causal, within documents,
// grouped queries, head sizes that are multiples of 16 up to 128, from packed qkv. Tri Dao, FlashAttention-2 (2307.08691), with one
// difference: dq has a kernel of its own instead of atomics, so the backward pass is deterministic.
//
// Tiles lie in shared memory with rows of D + 8 elements: the 16 extra bytes make the eight rows that
// ldmatrix reads together fall on different banks for D = 64, 96 and 128.
#pragma once

#include <math.h>

#include "executor/cuda/attention_reference.h"
#include "executor/cuda/block.h"

namespace llmplan::cuda {

inline constexpr int kTile = 64;            // rows of a tile of queries or keys
inline constexpr int kAttentionThreads = 128;  // 4 warps of 16 rows (32 in the forward pass)
inline constexpr float kLog2e = 1.4426950408889634f;

// Shared-memory tile of `Rows` × D elements of 16 bits.
template <int D, int Rows, class T>
struct Tile {
  static constexpr int kPitch = D + 8;
  static constexpr int kElements = Rows * kPitch;
  T* at;
  LLMPLAN_HD T* operator()(int row, int col) const { return at + row * kPitch + col; }

  // Copies rows [first, first + Rows) of a matrix with `stride` elements per row; zeros past `limit`.
  template <class Block>
  LLMPLAN_HD void fill(Block& block, const T* source, std::int64_t stride, std::int64_t first,
                       std::int64_t limit) const {
    constexpr int kChunks = D / 8;
    for (int c = block.thread(); c < Rows * kChunks; c += kAttentionThreads) {
      int row = c / kChunks, col = c % kChunks * 8;
      bool valid = first + row < limit;
      block.copy16((*this)(row, col), source + (valid ? (first + row) * stride : 0) + col, valid);
    }
  }
  // Rows [row, row + 16), columns [col, col + 16) as the left operand.
  template <class Block>
  LLMPLAN_HD FragmentA left(Block& block, int row, int col) const {
    FragmentA a;
    int l = block.lane();
    block.load_matrix_x4(a.r, (*this)(row + l % 16, col + l / 16 * 8));
    return a;
  }
  // The transpose of rows [row, row + 16), columns [col, col + 16) as the right operand: two fragments, for
  // result columns row … row + 7 (b[0], b[1]) and row + 8 … row + 15 (b[2], b[3]).
  template <class Block>
  LLMPLAN_HD void right_transposed(Block& block, int row, int col, std::uint32_t (&b)[4]) const {
    int l = block.lane();
    block.load_matrix_x4(b, (*this)(row + l % 8 + l / 16 * 8, col + l / 8 % 2 * 8));
  }
  // Rows [row, row + 16), columns [col, col + 16) as the right operand: result columns col … col + 7
  // (b[0], b[1]) and col + 8 … col + 15 (b[2], b[3]).
  template <class Block>
  LLMPLAN_HD void right(Block& block, int row, int col, std::uint32_t (&b)[4]) const {
    int l = block.lane();
    block.load_matrix_x4_transposed(b, (*this)(row + l % 16, col + l / 16 * 8));
  }
};

// An accumulator of 16 rows × N columns; lane (g, t) holds rows g, g + 8, columns 2t, 2t + 1 of each 8.
template <int N, class T>
struct Accumulator {
  FragmentC c[N / 8];
  LLMPLAN_HD void clear() {
    LLMPLAN_UNROLL
    for (int n = 0; n < N / 8; ++n) c[n] = {{0, 0, 0, 0}};
  }
  // Columns [16 k, 16 k + 16), rounded to T, as the left operand of the next product.
  LLMPLAN_HD FragmentA left(int k) const {
    const FragmentC &a = c[2 * k], &b = c[2 * k + 1];
    return {{pack<T>(a.r[0], a.r[1]), pack<T>(a.r[2], a.r[3]), pack<T>(b.r[0], b.r[1]), pack<T>(b.r[2], b.r[3])}};
  }
};

// acc[16, Rows] += left[row…row+16, D] · tileᵀ
template <int D, int Rows, class T, class Block, int LeftRows>
LLMPLAN_HD void multiply_transposed(Block& block, Accumulator<Rows, T>& acc, const Tile<D, LeftRows, T>& left, int row,
                                    const Tile<D, Rows, T>& tile) {
    LLMPLAN_UNROLL
  for (int k = 0; k < D; k += 16) {
    FragmentA a = left.left(block, row, k);
    LLMPLAN_UNROLL
    for (int n = 0; n < Rows; n += 16) {
      std::uint32_t b[4];
      tile.right_transposed(block, n, k, b);
      block.template mma<T>(acc.c[n / 8], a, b[0], b[1]);
      block.template mma<T>(acc.c[n / 8 + 1], a, b[2], b[3]);
    }
  }
}
// acc[16, D] += p[16, Rows] · tile
template <int D, int Rows, class T, class Block>
LLMPLAN_HD void multiply(Block& block, Accumulator<D, T>& acc, const Accumulator<Rows, T>& p, const Tile<D, Rows, T>& tile) {
    LLMPLAN_UNROLL
  for (int k = 0; k < Rows; k += 16) {
    FragmentA a = p.left(k / 16);
    LLMPLAN_UNROLL
    for (int n = 0; n < D; n += 16) {
      std::uint32_t b[4];
      tile.right(block, k, n, b);
      block.template mma<T>(acc.c[n / 8], a, b[0], b[1]);
      block.template mma<T>(acc.c[n / 8 + 1], a, b[2], b[3]);
    }
  }
}
// Reduces over the four lanes that share a row.
template <class Block>
LLMPLAN_HD float row_sum(Block& block, float v) {
  v += block.shuffle_xor(v, 1);
  return v + block.shuffle_xor(v, 2);
}
template <class Block>
LLMPLAN_HD float row_max(Block& block, float v) {
  v = fmaxf(v, block.shuffle_xor(v, 1));
  return fmaxf(v, block.shuffle_xor(v, 2));
}
// Writes 16 rows × D, times `scale[half]`, to rows first + … of a matrix; rows past `limit` are dropped.
template <int D, class T, class Block>
LLMPLAN_HD void write_rows(Block& block, const Accumulator<D, T>& acc, T* to, std::int64_t stride,
                           std::int64_t first, std::int64_t limit, float scale0, float scale1) {
  int g = block.lane() / 4, t = block.lane() % 4;
    LLMPLAN_UNROLL
  for (int half = 0; half < 2; ++half) {
    std::int64_t row = first + g + 8 * half;
    if (row >= limit) continue;
    float scale = half ? scale1 : scale0;
    LLMPLAN_UNROLL
    for (int n = 0; n < D / 8; ++n) {
      std::uint32_t both = pack<T>(acc.c[n].r[2 * half] * scale, acc.c[n].r[2 * half + 1] * scale);
      *reinterpret_cast<std::uint32_t*>(to + row * stride + n * 8 + 2 * t) = both;
    }
  }
}

// One block per 128 queries of one head: 4 warps of two 16-row strips, so that a key fragment read from
// shared memory serves 32 rows. Keys and values are double-buffered.
template <int D, class T>
struct AttentionKernel {
  AttentionShape shape;
  const T* qkv;
  T* out;
  float* lse;

  static constexpr int kQueries = 128;
  using Queries = Tile<D, kQueries, T>;
  using Keys = Tile<D, kTile, T>;

  LLMPLAN_HD std::int64_t query_blocks() const { return ceil_div(shape.seq, kQueries); }
  Launch launch() const {
    return {shape.batch * shape.heads * query_blocks(), kAttentionThreads,
            (Queries::kElements + 4 * Keys::kElements) * sizeof(T)};
  }

  template <class Block>
  LLMPLAN_HD void operator()(Block& block) const {
    // The last query blocks see the most keys: they start first.
    std::int64_t pairs = shape.batch * shape.heads, pair = block.index() % pairs;
    std::int64_t b = pair / shape.heads, head = pair % shape.heads;
    std::int64_t first = (query_blocks() - 1 - block.index() / pairs) * kQueries, stride = shape.row_elements();
    const T* q = qkv + shape.q(b, 0, head);
    const T* k = qkv + shape.k(b, 0, head / shape.group());
    const T* v = qkv + shape.v(b, 0, head / shape.group());
    T* memory = block.template shared<T>();
    Queries queries{memory};
    auto keys = [&](std::int64_t j) { return Keys{memory + Queries::kElements + j % 2 * Keys::kElements}; };
    auto values = [&](std::int64_t j) { return Keys{memory + Queries::kElements + (2 + j % 2) * Keys::kElements}; };

    // Keys before the document of the first query are seen by none.
    std::int64_t begin = shape.start(b, first) / kTile;
    queries.fill(block, q, stride, first, shape.seq);
    keys(begin).fill(block, k, stride, begin * kTile, shape.seq);
    values(begin).fill(block, v, stride, begin * kTile, shape.seq);
    block.commit_copies();

    int g = block.lane() / 4, t = block.lane() % 4, strip = block.warp() * 32;
    float scale = kLog2e / sqrtf(static_cast<float>(D));  // softmax in base 2
    Accumulator<D, T> acc[2];
    float best[2][2], sum[2][2];
    LLMPLAN_UNROLL
    for (int m = 0; m < 2; ++m) {
      acc[m].clear();
      best[m][0] = best[m][1] = -1e30f;
      sum[m][0] = sum[m][1] = 0;
    }
    std::int64_t end = first + kQueries < shape.seq ? first + kQueries : shape.seq;
    std::int64_t tiles = ceil_div(end, kTile);
    for (std::int64_t j = begin; j < tiles; ++j) {
      block.template wait_copies<0>();
      block.sync();  // tile j has arrived for all; tile j − 1's buffers are free
      if (j + 1 < tiles) {
        keys(j + 1).fill(block, k, stride, (j + 1) * kTile, shape.seq);
        values(j + 1).fill(block, v, stride, (j + 1) * kTile, shape.seq);
        block.commit_copies();
      }
    LLMPLAN_UNROLL
      for (int m = 0; m < 2; ++m) {
        std::int64_t row0 = first + strip + 16 * m;
        if (j * kTile > row0 + 15) continue;  // wholly above the diagonal: the same for all lanes of the warp
        Accumulator<kTile, T> s;
        s.clear();
        multiply_transposed<D, kTile, T>(block, s, queries, strip + 16 * m, keys(j));
        std::int64_t last_row = row0 + 15 < shape.seq ? row0 + 15 : shape.seq - 1;
        bool masked = (j + 1) * kTile > row0 || j * kTile < shape.start(b, last_row);
    LLMPLAN_UNROLL
        for (int half = 0; half < 2; ++half) {
          std::int64_t row = row0 + g + 8 * half;
          std::int64_t start = masked ? shape.start(b, row < shape.seq ? row : shape.seq - 1) : 0;
          float top = best[m][half];
    LLMPLAN_UNROLL
          for (int n = 0; n < kTile / 8; ++n)
    LLMPLAN_UNROLL
            for (int e = 0; e < 2; ++e) {
              float& x = s.c[n].r[2 * half + e];
              std::int64_t key = j * kTile + n * 8 + 2 * t + e;
              // A row whose document begins in a later tile sums up what its first real score makes 0 again.
              x = masked && (key > row || key < start) ? -1e30f : x * scale;
              top = fmaxf(top, x);
            }
          top = row_max(block, top);
          float keep = exp2f(best[m][half] - top), part = 0;
          best[m][half] = top;
    LLMPLAN_UNROLL
          for (int n = 0; n < kTile / 8; ++n)
    LLMPLAN_UNROLL
            for (int e = 0; e < 2; ++e) {
              float& x = s.c[n].r[2 * half + e];
              x = exp2f(x - top);
              part += x;
            }
          sum[m][half] = sum[m][half] * keep + part;  // this lane's columns; the four lanes meet at the end
    LLMPLAN_UNROLL
          for (int n = 0; n < D / 8; ++n) {
            acc[m].c[n].r[2 * half] *= keep;
            acc[m].c[n].r[2 * half + 1] *= keep;
          }
        }
        multiply<D, kTile, T>(block, acc[m], s, values(j));
      }
    }
    LLMPLAN_UNROLL
    for (int m = 0; m < 2; ++m) {
      std::int64_t row0 = first + strip + 16 * m;
      float total0 = row_sum(block, sum[m][0]), total1 = row_sum(block, sum[m][1]);
      write_rows<D, T>(block, acc[m], out + shape.out(b, 0, head), shape.heads * D, row0, shape.seq, 1.0f / total0,
                    1.0f / total1);
      if (t == 0)
    LLMPLAN_UNROLL
        for (int half = 0; half < 2; ++half)
          if (row0 + g + 8 * half < shape.seq)
            lse[shape.lse(b, head) + row0 + g + 8 * half] =
                best[m][half] / kLog2e + logf(half ? total1 : total0);
    }
  }
};

// dk and dv of 64 keys of one kv head: over the heads of its group and the query tiles below the diagonal,
// in order. Everything is computed transposed (keys are rows), so that P and dS feed the next product
// from registers.
template <int D, class T>
struct AttentionGradKVKernel {
  AttentionShape shape;
  const T* qkv;
  const T* dout;
  const float* lse;
  const float* delta;
  T* dqkv;

  using Rows = Tile<D, kTile, T>;

  LLMPLAN_HD std::int64_t key_blocks() const { return ceil_div(shape.seq, kTile); }
  Launch launch() const {
    return {shape.batch * shape.kv_heads * key_blocks(), kAttentionThreads,
            4 * Rows::kElements * sizeof(T) + 2 * kTile * sizeof(float) + kTile * sizeof(std::int32_t)};
  }

  template <class Block>
  LLMPLAN_HD void operator()(Block& block) const {
    std::int64_t pairs = shape.batch * shape.kv_heads, pair = block.index() % pairs;
    std::int64_t b = pair / shape.kv_heads, kv = pair % shape.kv_heads;
    std::int64_t first = block.index() / pairs * kTile, stride = shape.row_elements();  // most queries first
    T* memory = block.template shared<T>();
    Rows keys{memory}, values{memory + Rows::kElements}, queries{memory + 2 * Rows::kElements},
        grads{memory + 3 * Rows::kElements};
    float* row_lse = reinterpret_cast<float*>(memory + 4 * Rows::kElements);
    float* row_delta = row_lse + kTile;
    auto* row_start = reinterpret_cast<std::int32_t*>(row_delta + kTile);

    keys.fill(block, qkv + shape.k(b, 0, kv), stride, first, shape.seq);
    values.fill(block, qkv + shape.v(b, 0, kv), stride, first, shape.seq);
    block.commit_copies();

    int g = block.lane() / 4, t = block.lane() % 4, strip = block.warp() * 16;
    float scale = 1.0f / sqrtf(static_cast<float>(D));
    Accumulator<D, T> dk, dv;
    dk.clear();
    dv.clear();
    for (std::int64_t head = kv * shape.group(); head < (kv + 1) * shape.group(); ++head) {
      for (std::int64_t at = first; at < shape.seq; at += kTile) {
        if (shape.start(b, at) >= first + kTile) break;  // these and all later queries are of later documents
        block.sync();  // the last tile is no longer read
        queries.fill(block, qkv + shape.q(b, 0, head), stride, at, shape.seq);
        grads.fill(block, dout + shape.out(b, 0, head), shape.heads * D, at, shape.seq);
        block.commit_copies();
        if (block.thread() < kTile) {
          std::int64_t row = at + block.thread();
          row_lse[block.thread()] = row < shape.seq ? lse[shape.lse(b, head) + row] * kLog2e : 0.0f;
          row_delta[block.thread()] = row < shape.seq ? delta[shape.lse(b, head) + row] : 0.0f;
          row_start[block.thread()] = row < shape.seq ? static_cast<std::int32_t>(shape.start(b, row)) : 0;
        }
        block.template wait_copies<0>();
        block.sync();
        Accumulator<kTile, T> p, dp;
        p.clear();
        dp.clear();
        multiply_transposed<D, kTile, T>(block, p, keys, strip, queries);
        multiply_transposed<D, kTile, T>(block, dp, values, strip, grads);
    LLMPLAN_UNROLL
        for (int n = 0; n < kTile / 8; ++n)
    LLMPLAN_UNROLL
          for (int i = 0; i < 4; ++i) {
            int column = n * 8 + 2 * t + i % 2;
            std::int64_t key = first + strip + g + i / 2 * 8, query = at + column;
            float x = key <= query && query < shape.seq && key >= row_start[column]
                          ? exp2f(p.c[n].r[i] * scale * kLog2e - row_lse[column]) : 0.0f;
            p.c[n].r[i] = x;
            dp.c[n].r[i] = x * (dp.c[n].r[i] - row_delta[column]) * scale;
          }
        multiply<D, kTile, T>(block, dv, p, grads);
        multiply<D, kTile, T>(block, dk, dp, queries);
      }
    }
    write_rows<D, T>(block, dk, dqkv + shape.k(b, 0, kv), stride, first + strip, shape.seq, 1, 1);
    write_rows<D, T>(block, dv, dqkv + shape.v(b, 0, kv), stride, first + strip, shape.seq, 1, 1);
  }
};

// dq of 64 queries of one head, over the key tiles up to the diagonal, in order.
template <int D, class T>
struct AttentionGradQKernel {
  AttentionShape shape;
  const T* qkv;
  const T* dout;
  const float* lse;
  const float* delta;
  T* dqkv;

  using Rows = Tile<D, kTile, T>;

  LLMPLAN_HD std::int64_t query_blocks() const { return ceil_div(shape.seq, kTile); }
  Launch launch() const {
    return {shape.batch * shape.heads * query_blocks(), kAttentionThreads, 4 * Rows::kElements * sizeof(T)};
  }

  template <class Block>
  LLMPLAN_HD void operator()(Block& block) const {
    std::int64_t pairs = shape.batch * shape.heads, pair = block.index() % pairs;
    std::int64_t b = pair / shape.heads, head = pair % shape.heads, kv = head / shape.group();
    std::int64_t first = (query_blocks() - 1 - block.index() / pairs) * kTile, stride = shape.row_elements();
    T* memory = block.template shared<T>();
    Rows queries{memory}, grads{memory + Rows::kElements}, keys{memory + 2 * Rows::kElements},
        values{memory + 3 * Rows::kElements};

    queries.fill(block, qkv + shape.q(b, 0, head), stride, first, shape.seq);
    grads.fill(block, dout + shape.out(b, 0, head), shape.heads * D, first, shape.seq);
    block.commit_copies();

    int g = block.lane() / 4, t = block.lane() % 4, strip = block.warp() * 16;
    float scale = 1.0f / sqrtf(static_cast<float>(D)), row_lse[2], row_delta[2];
    std::int64_t row_start[2];
    for (int half = 0; half < 2; ++half) {
      std::int64_t row = first + strip + g + 8 * half;
      row_lse[half] = row < shape.seq ? lse[shape.lse(b, head) + row] * kLog2e : 0.0f;
      row_delta[half] = row < shape.seq ? delta[shape.lse(b, head) + row] : 0.0f;
      row_start[half] = shape.start(b, row < shape.seq ? row : shape.seq - 1);
    }
    Accumulator<D, T> dq;
    dq.clear();
    for (std::int64_t at = shape.start(b, first) / kTile * kTile; at <= first && at < shape.seq; at += kTile) {
      block.sync();
      keys.fill(block, qkv + shape.k(b, 0, kv), stride, at, shape.seq);
      values.fill(block, qkv + shape.v(b, 0, kv), stride, at, shape.seq);
      block.commit_copies();
      block.template wait_copies<0>();
      block.sync();
      Accumulator<kTile, T> p, dp;
      p.clear();
      dp.clear();
      multiply_transposed<D, kTile, T>(block, p, queries, strip, keys);
      multiply_transposed<D, kTile, T>(block, dp, grads, strip, values);
    LLMPLAN_UNROLL
      for (int n = 0; n < kTile / 8; ++n)
    LLMPLAN_UNROLL
        for (int i = 0; i < 4; ++i) {
          int half = i / 2;
          std::int64_t key = at + n * 8 + 2 * t + i % 2, query = first + strip + g + 8 * half;
          float x = key <= query && key >= row_start[half] ? exp2f(p.c[n].r[i] * scale * kLog2e - row_lse[half]) : 0.0f;
          dp.c[n].r[i] = x * (dp.c[n].r[i] - row_delta[half]) * scale;
        }
      multiply<D, kTile, T>(block, dq, dp, keys);
    }
    write_rows<D, T>(block, dq, dqkv + shape.q(b, 0, head), stride, first + strip, shape.seq, 1, 1);
  }
};

}  // namespace llmplan::cuda
