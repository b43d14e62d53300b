// RMSNorm with residual, forward and backward (op.h: RmsNorm, RmsNormGrad).
#pragma once

#include <math.h>

#include "costmodel/op.h"
#include "executor/cuda/block.h"
#include "executor/cuda/quantize.h"

namespace llmplan::cuda {

inline constexpr int kNormThreads = 256;

// One block per row. The row is read twice; the second time it comes from the L1 or L2 cache.
template <class T>
struct RmsNormKernel {
  std::int64_t rows, hidden;  // hidden is a multiple of kVec<T>
  double eps;
  const T* x;
  const T* weight;
  const T* delta;  // null: no residual
  T* y;            // null: quantised, see quantize.h
  float* rstd;
  T* sum;          // null: no residual
  float* magnitudes = nullptr;  // [rows], where y is null: the largest |y| of each row

  Launch launch() const { return {rows, kNormThreads, kNormThreads / 32 * sizeof(float)}; }

  template <class Block>
  LLMPLAN_HD void operator()(Block& block) const {
    constexpr int N = kVec<T>;
    std::int64_t row = block.index(), base = row * hidden;
    float squares = 0;
    for (std::int64_t i = block.thread() * N; i < hidden; i += kNormThreads * N) {
      Vec<T, N> v = load<N>(x + base + i);
      if (delta) {
        Vec<T, N> d = load<N>(delta + base + i);
        for (int e = 0; e < N; ++e) v.at[e] = from_float<T>(to_float(v.at[e]) + to_float(d.at[e]));
        store<N>(sum + base + i, v);
      }
      // The statistics are those of the stored, rounded sum: recomputation, which reads it back, agrees.
      for (int e = 0; e < N; ++e) squares += to_float(v.at[e]) * to_float(v.at[e]);
    }
    squares = block_sum(block, squares, block.template shared<float>());
    float scale = 1.0f / sqrtf(squares / static_cast<float>(hidden) + static_cast<float>(eps));
    if (block.thread() == 0) rstd[row] = scale;
    const T* source = delta ? sum : x;  // each thread reads back only what it wrote itself
    if (!y) {
      float largest = 0;
      for (std::int64_t i = block.thread() * N; i < hidden; i += kNormThreads * N) {
        Vec<T, N> v = load<N>(source + base + i), w = load<N>(weight + i);
        for (int e = 0; e < N; ++e) largest = larger(largest, to_float(v.at[e]) * scale * to_float(w.at[e]));
      }
      largest = block_largest(block, largest, block.template shared<float>());
      if (block.thread() == 0) magnitudes[row] = largest;
      return;
    }
    for (std::int64_t i = block.thread() * N; i < hidden; i += kNormThreads * N) {
      Vec<T, N> v = load<N>(source + base + i), w = load<N>(weight + i);
      for (int e = 0; e < N; ++e) v.at[e] = from_float<T>(to_float(v.at[e]) * scale * to_float(w.at[e]));
      store<N>(y + base + i, v);
    }
  }
};

// dx = dresidual + rstd·(w·dy − x·rstd²·mean(w·dy·x)); one block per row.
template <class T>
struct RmsNormGradKernel {
  std::int64_t rows, hidden;
  const T* x;
  const float* rstd;
  const T* weight;
  const T* dy;
  const T* dresidual;  // null: none; may be dx itself
  T* dx;

  Launch launch() const { return {rows, kNormThreads, kNormThreads / 32 * sizeof(float)}; }

  template <class Block>
  LLMPLAN_HD void operator()(Block& block) const {
    constexpr int N = kVec<T>;
    std::int64_t row = block.index(), base = row * hidden;
    float dot = 0;
    for (std::int64_t i = block.thread() * N; i < hidden; i += kNormThreads * N) {
      Vec<T, N> v = load<N>(x + base + i), g = load<N>(dy + base + i), w = load<N>(weight + i);
      for (int e = 0; e < N; ++e) dot += to_float(w.at[e]) * to_float(g.at[e]) * to_float(v.at[e]);
    }
    dot = block_sum(block, dot, block.template shared<float>());
    float r = rstd[row], mean = r * r * dot / static_cast<float>(hidden);
    for (std::int64_t i = block.thread() * N; i < hidden; i += kNormThreads * N) {
      Vec<T, N> v = load<N>(x + base + i), g = load<N>(dy + base + i), w = load<N>(weight + i), out;
      for (int e = 0; e < N; ++e)
        out.at[e] = from_float<T>(r * (to_float(w.at[e]) * to_float(g.at[e]) - to_float(v.at[e]) * mean) +
                                  (dresidual ? to_float(dresidual[base + i + e]) : 0.0f));
      store<N>(dx + base + i, out);
    }
  }
};

// partial[b, column] = Σ dy·x·rstd over the b-th of norm_grad_blocks(rows) blocks of rows, in row order.
template <class T>
struct NormWeightPartialKernel {
  std::int64_t rows, hidden;
  const T* x;
  const float* rstd;
  const T* dy;
  float* partial;

  std::int64_t column_blocks() const { return ceil_div(hidden, kNormThreads); }
  Launch launch() const { return {norm_grad_blocks(rows) * column_blocks(), kNormThreads, 0}; }

  template <class Block>
  LLMPLAN_HD void operator()(Block& block) const {
    std::int64_t columns = ceil_div(hidden, kNormThreads), parts = norm_grad_blocks_on(rows);
    std::int64_t part = block.index() / columns;
    std::int64_t column = block.index() % columns * kNormThreads + block.thread();
    if (column >= hidden) return;
    std::int64_t each = ceil_div(rows, parts), last = (part + 1) * each < rows ? (part + 1) * each : rows;
    float sum = 0;
    for (std::int64_t row = part * each; row < last; ++row)
      sum += to_float(dy[row * hidden + column]) * to_float(x[row * hidden + column]) * rstd[row];
    partial[part * hidden + column] = sum;
  }

 private:
  static LLMPLAN_HD std::int64_t norm_grad_blocks_on(std::int64_t rows) {
    return rows < 16 * 32 ? (rows + 31) / 32 : 16;  // norm_grad_blocks, callable on the device
  }
};

// dweight (+)= Σ_b partial[b], in order.
struct NormWeightSumKernel {
  std::int64_t parts, hidden;
  bool accumulate;
  const float* partial;
  float* dweight;

  Launch launch() const { return {ceil_div(hidden, kNormThreads), kNormThreads, 0}; }

  template <class Block>
  LLMPLAN_HD void operator()(Block& block) const {
    std::int64_t column = block.index() * kNormThreads + block.thread();
    if (column >= hidden) return;
    float sum = 0;
    for (std::int64_t b = 0; b < parts; ++b) sum += partial[b * hidden + column];
    dweight[column] = accumulate ? dweight[column] + sum : sum;
  }
};

}  // namespace llmplan::cuda
