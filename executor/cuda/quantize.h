// Per-tensor current scaling into 8 bits (op.h: Quantize), of a matrix or of what an op would have written: two
// passes, the largest magnitude of each row, then the codes, both ways. A source says what the matrix is, four
// neighbouring elements of a row at a time, so that a result is never stored in 16 bits.
#pragma once

#include <math.h>

#include "executor/cuda/block.h"
#include "executor/cuda/pointwise.h"

namespace llmplan::cuda {

// The larger of a magnitude and |x|; a NaN is larger than everything, infinity included.
LLMPLAN_HD float larger(float magnitude, float x) {
  float size = fabsf(x);
  return size <= magnitude || magnitude != magnitude ? magnitude : size;
}
template <class Block>
LLMPLAN_HD float block_largest(Block& block, float v, float* scratch) {
  for (int mask = 16; mask > 0; mask >>= 1) v = larger(v, block.shuffle_xor(v, mask));
  block.sync();  // scratch may still be read from the last reduction
  if (block.lane() == 0) scratch[block.warp()] = v;
  block.sync();
  float most = scratch[0];
  for (int w = 1; w < block.threads() / 32; ++w) most = larger(most, scratch[w]);
  return most;
}

template <class T>
struct PlainSource {
  std::int64_t columns;
  const T* x;
  LLMPLAN_HD void four(std::int64_t row, std::int64_t column, float (&out)[4]) const {
    Vec<T, 4> v = load<4>(x + row * columns + column);
    for (int e = 0; e < 4; ++e) out[e] = to_float(v.at[e]);
  }
};
template <class T>
struct NormSource {
  std::int64_t columns;
  const T* x;  // the sum, where there is a residual
  const float* rstd;
  const T* weight;
  LLMPLAN_HD void four(std::int64_t row, std::int64_t column, float (&out)[4]) const {
    Vec<T, 4> v = load<4>(x + row * columns + column), w = load<4>(weight + column);
    for (int e = 0; e < 4; ++e) out[e] = to_float(v.at[e]) * rstd[row] * to_float(w.at[e]);
  }
};
template <class T>
struct SwiGluSource {
  std::int64_t ffn;
  const T* gate_up;
  LLMPLAN_HD void four(std::int64_t row, std::int64_t column, float (&out)[4]) const {
    const T* gate = gate_up + row * 2 * ffn + column;
    Vec<T, 4> g = load<4>(gate), u = load<4>(gate + ffn);
    for (int e = 0; e < 4; ++e) out[e] = swiglu(to_float(g.at[e]), to_float(u.at[e]));
  }
};
template <class T>
struct SwiGluGradSource {
  std::int64_t ffn;  // four columns never straddle gate and up
  const T* gate_up;
  const T* dout;
  LLMPLAN_HD void four(std::int64_t row, std::int64_t column, float (&out)[4]) const {
    bool is_up = column >= ffn;
    std::int64_t i = is_up ? column - ffn : column;
    const T* gate = gate_up + row * 2 * ffn + i;
    Vec<T, 4> g = load<4>(gate), u = load<4>(gate + ffn), d = load<4>(dout + row * ffn + i);
    for (int e = 0; e < 4; ++e) {
      SwiGluSlope slope = swiglu_grad(to_float(g.at[e]), to_float(u.at[e]), to_float(d.at[e]));
      out[e] = is_up ? slope.up : slope.gate;
    }
  }
};

// magnitudes[row] = max |x[row]|; one block per row.
template <class Source>
struct MagnitudesKernel {
  std::int64_t rows, columns;
  Source source;
  float* magnitudes;

  static constexpr int kThreads = 128;
  Launch launch() const { return {rows, kThreads, kThreads / 32 * sizeof(float)}; }

  template <class Block>
  LLMPLAN_HD void operator()(Block& block) const {
    std::int64_t row = block.index();
    float largest = 0, x[4];
    for (std::int64_t c = block.thread() * 4; c < columns; c += kThreads * 4) {
      source.four(row, c, x);
      for (int e = 0; e < 4; ++e) largest = larger(largest, x[e]);
    }
    largest = block_largest(block, largest, block.template shared<float>());
    if (block.thread() == 0) magnitudes[row] = largest;
  }
};

// factor[0] = 2^-e for the largest e with max·2^e ≤ limit, from the magnitudes behind it; one block.
struct FactorKernel {
  std::int64_t rows;
  float limit;
  float* factor;  // [1 + rows]

  static constexpr int kThreads = 1024;
  Launch launch() const { return {1, kThreads, kThreads / 32 * sizeof(float)}; }

  template <class Block>
  LLMPLAN_HD void operator()(Block& block) const {
    float most = 0;
    for (std::int64_t r = block.thread(); r < rows; r += kThreads) most = larger(most, factor[1 + r]);
    most = block_largest(block, most, block.template shared<float>());
    if (block.thread() != 0) return;
    if (!(most <= 3.402823466e38f)) {
      factor[0] = NAN;  // so that what was not finite does not end up looking like a large number
      return;
    }
    int e = most > 0 ? ilogbf(limit) - ilogbf(most) : 0;
    if (static_cast<double>(most) * ldexp(1.0, e) > static_cast<double>(limit)) --e;
    e = e < -120 ? -120 : e > 120 ? 120 : e;
    factor[0] = ldexpf(1.0f, -e);
  }
};

// Codes of 32 rows × 128 columns per block: straight as they are read, transposed through shared memory, so that both
// are written in whole 32-byte sectors.
template <class Source, class Q>
struct QuantizeKernel {
  std::int64_t rows, columns;  // multiples of 4
  Source source;
  Q* straight;    // null: not wanted
  Q* transposed;
  const float* factor;

  static constexpr int kThreads = 256, kRows = 32, kColumns = 128, kPitch = kRows + 4;
  LLMPLAN_HD std::int64_t column_blocks() const { return ceil_div(columns, kColumns); }
  Launch launch() const { return {ceil_div(rows, kRows) * column_blocks(), kThreads, kColumns * kPitch}; }

  template <class Block>
  LLMPLAN_HD void operator()(Block& block) const {
    std::int64_t row0 = block.index() / column_blocks() * kRows, column0 = block.index() % column_blocks() * kColumns;
    float scale = 1.0f / factor[0], x[4];  // of a power of two: exact
    Q* tile = block.template shared<Q>();  // [kColumns][kPitch]
    for (int r = block.warp(); r < kRows; r += kThreads / 32) {
      std::int64_t row = row0 + r, column = column0 + block.lane() * 4;
      if (row >= rows || column >= columns) continue;
      source.four(row, column, x);
      Vec<Q, 4> codes;
      for (int e = 0; e < 4; ++e) {
        codes.at[e] = from_float<Q>(x[e] * scale);
        tile[(block.lane() * 4 + e) * kPitch + r] = codes.at[e];
      }
      if (straight) store<4>(straight + row * columns + column, codes);
    }
    block.sync();
    if (!transposed) return;
    for (int i = block.thread(); i < kColumns * kRows / 4; i += kThreads) {
      int c = i / (kRows / 4), r = i % (kRows / 4) * 4;
      if (column0 + c < columns && row0 + r < rows)
        store<4>(transposed + (column0 + c) * rows + row0 + r, load<4>(tile + c * kPitch + r));
    }
  }
};

}  // namespace llmplan::cuda
