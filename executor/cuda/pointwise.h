// RoPE, SwiGLU and additions (op.h: Rope, SwiGlu, SwiGluGrad, Add). Memory-bound: 16-byte accesses, one pass.
#pragma once

#include <math.h>

#include "executor/cuda/block.h"

namespace llmplan::cuda {

inline constexpr int kPointwiseThreads = 256;

// Elements per block of an elementwise kernel; a grid has one block per that many.
template <class T> inline constexpr std::int64_t kPointwiseTile = kPointwiseThreads * kVec<T>;

// q and k heads of packed qkv, in place. A thread owns N pairs (i, i + head_dim/2) of one head, so
// nothing is read after another thread wrote it. head_dim/2 is a multiple of N: kVec<T>, or 1 for odd sizes.
template <class T, int N>
struct RopeKernel {
  std::int64_t rows, seq, heads, kv_heads, head_dim;
  bool backward;
  const float* table;  // [seq, head_dim]: cos of head_dim/2 angles, then sin
  const std::int32_t* starts;  // where the document of a row begins; null: at the sequence's first row
  T* qkv;

  LLMPLAN_HD std::int64_t items_per_row() const { return (heads + kv_heads) * (head_dim / 2 / N); }
  Launch launch() const { return {ceil_div(rows * items_per_row(), kPointwiseThreads), kPointwiseThreads, 0}; }

  template <class Block>
  LLMPLAN_HD void operator()(Block& block) const {
    std::int64_t item = block.index() * kPointwiseThreads + block.thread();
    if (item >= rows * items_per_row()) return;
    std::int64_t row = item / items_per_row(), rest = item % items_per_row(), half = head_dim / 2;
    std::int64_t head = rest / (half / N), i = rest % (half / N) * N;
    T* first = qkv + row * (heads + 2 * kv_heads) * head_dim + head * head_dim + i;
    const float* angles = table + (row % seq - (starts ? starts[row] : 0)) * head_dim + i;
    Vec<T, N> a = load<N>(first), b = load<N>(first + half);
    for (int e = 0; e < N; ++e) {
      float c = angles[e], s = backward ? -angles[half + e] : angles[half + e];
      float x = to_float(a.at[e]), y = to_float(b.at[e]);
      a.at[e] = from_float<T>(x * c - y * s);
      b.at[e] = from_float<T>(y * c + x * s);
    }
    store<N>(first, a);
    store<N>(first + half, b);
  }
};

LLMPLAN_HD float sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }

LLMPLAN_HD float swiglu(float gate, float up) { return gate * sigmoid(gate) * up; }
struct SwiGluSlope { float gate, up; };
// d silu(g)/dg = σ(g)·(1 + g·(1 − σ(g)))
LLMPLAN_HD SwiGluSlope swiglu_grad(float gate, float up, float dy) {
  float s = sigmoid(gate);
  return {dy * up * s * (1.0f + gate * (1.0f - s)), dy * gate * s};
}

template <class T>
struct SwiGluKernel {
  std::int64_t rows, ffn;  // ffn is a multiple of kVec<T>
  const T* gate_up;
  T* out;

  Launch launch() const { return {ceil_div(rows * ffn, kPointwiseTile<T>), kPointwiseThreads, 0}; }

  template <class Block>
  LLMPLAN_HD void operator()(Block& block) const {
    constexpr int N = kVec<T>;
    std::int64_t at = block.index() * kPointwiseTile<T> + block.thread() * N;
    if (at >= rows * ffn) return;
    std::int64_t row = at / ffn, i = at % ffn;
    Vec<T, N> g = load<N>(gate_up + row * 2 * ffn + i), u = load<N>(gate_up + row * 2 * ffn + ffn + i);
    for (int e = 0; e < N; ++e) g.at[e] = from_float<T>(swiglu(to_float(g.at[e]), to_float(u.at[e])));
    store<N>(out + at, g);
  }
};

// dgate_up may be gate_up: each thread overwrites what it read.
template <class T>
struct SwiGluGradKernel {
  std::int64_t rows, ffn;
  const T* gate_up;
  const T* dout;
  T* dgate_up;

  Launch launch() const { return {ceil_div(rows * ffn, kPointwiseTile<T>), kPointwiseThreads, 0}; }

  template <class Block>
  LLMPLAN_HD void operator()(Block& block) const {
    constexpr int N = kVec<T>;
    std::int64_t at = block.index() * kPointwiseTile<T> + block.thread() * N;
    if (at >= rows * ffn) return;
    std::int64_t row = at / ffn, i = at % ffn, gate = row * 2 * ffn + i, up = gate + ffn;
    Vec<T, N> g = load<N>(gate_up + gate), u = load<N>(gate_up + up), d = load<N>(dout + at);
    for (int e = 0; e < N; ++e) {
      SwiGluSlope slope = swiglu_grad(to_float(g.at[e]), to_float(u.at[e]), to_float(d.at[e]));
      g.at[e] = from_float<T>(slope.gate);
      u.at[e] = from_float<T>(slope.up);
    }
    store<N>(dgate_up + gate, g);
    store<N>(dgate_up + up, u);
  }
};

// out = a + b; the last, incomplete vector goes element by element.
template <class T>
struct AddKernel {
  std::int64_t elements;
  const T* a;
  const T* b;
  T* out;

  Launch launch() const { return {ceil_div(elements, kPointwiseTile<T>), kPointwiseThreads, 0}; }

  template <class Block>
  LLMPLAN_HD void operator()(Block& block) const {
    constexpr int N = kVec<T>;
    std::int64_t at = block.index() * kPointwiseTile<T> + block.thread() * N;
    if (at + N <= elements) {
      Vec<T, N> x = load<N>(a + at), y = load<N>(b + at);
      for (int e = 0; e < N; ++e) x.at[e] = from_float<T>(to_float(x.at[e]) + to_float(y.at[e]));
      store<N>(out + at, x);
    } else {
      for (; at < elements; ++at) out[at] = from_float<T>(to_float(a[at]) + to_float(b[at]));
    }
  }
};

struct FillKernel {
  std::int64_t elements;
  float value;
  float* out;

  Launch launch() const { return {ceil_div(elements, kPointwiseTile<float>), kPointwiseThreads, 0}; }

  template <class Block>
  LLMPLAN_HD void operator()(Block& block) const {
    constexpr int N = kVec<float>;
    std::int64_t at = block.index() * kPointwiseTile<float> + block.thread() * N;
    for (int e = 0; e < N; ++e)
      if (at + e < elements) out[at + e] = value;
  }
};

// out[i] = Σ_r in[r][i] in rank order, in fp32 (fp64 for doubles): the reduction of ranks that share a GPU.
inline constexpr int kMaxLocalRanks = 16;
template <class T, class Sum>
struct RankSumKernel {
  std::int64_t elements;
  int ranks;
  const T* in[kMaxLocalRanks];
  T* out;  // may be one of the inputs

  Launch launch() const { return {ceil_div(elements, kPointwiseThreads), kPointwiseThreads, 0}; }

  template <class Block>
  LLMPLAN_HD void operator()(Block& block) const {
    std::int64_t at = block.index() * kPointwiseThreads + block.thread();
    if (at >= elements) return;
    Sum sum = 0;
    for (int r = 0; r < ranks; ++r) {
      if constexpr (sizeof(T) == 2) sum += to_float(in[r][at]);
      else sum += in[r][at];
    }
    if constexpr (sizeof(T) == 2) out[at] = from_float<T>(sum);
    else out[at] = static_cast<T>(sum);
  }
};

}  // namespace llmplan::cuda
