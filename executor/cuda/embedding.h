// Table look-up and its gradient, deterministic without atomics (op.h: Embedding, EmbeddingGrad).
#pragma once

#include "executor/cuda/block.h"

namespace llmplan::cuda {

inline constexpr int kEmbeddingThreads = 128;

// One block per token.
template <class T>
struct EmbeddingKernel {
  std::int64_t rows, hidden, vocab, first;  // this rank holds ids [first, first + vocab)
  const std::int32_t* ids;
  const T* table;
  T* x;

  Launch launch() const { return {rows, kEmbeddingThreads, 0}; }

  template <class Block>
  LLMPLAN_HD void operator()(Block& block) const {
    constexpr int N = kVec<T>;
    std::int64_t row = block.index(), id = ids[row] - first;
    bool mine = id >= 0 && id < vocab;
    Vec<T, N> zero;
    for (int e = 0; e < N; ++e) zero.at[e] = from_float<T>(0.0f);
    for (std::int64_t i = block.thread() * N; i < hidden; i += kEmbeddingThreads * N)
      store<N>(x + row * hidden + i, mine ? load<N>(table + id * hidden + i) : zero);
  }
};

// One block per token; the block of an id's first occurrence adds up all of them, in row order. Every
// block scans the ids once (rows · 4 bytes, from L2), which costs less than sorting them.
// Rows of ids that do not occur are left alone: without `accumulate` the table is cleared before.
template <class T>
struct EmbeddingGradKernel {
  std::int64_t rows, hidden, vocab, first;
  const std::int32_t* ids;
  const T* dx;
  float* dtable;

  Launch launch() const { return {rows, kEmbeddingThreads, kEmbeddingThreads / 32 * sizeof(float)}; }

  template <class Block>
  LLMPLAN_HD void operator()(Block& block) const {
    std::int64_t row = block.index();
    std::int32_t id = ids[row];
    if (id < first || id >= first + vocab) return;
    float earlier = 0;
    for (std::int64_t r = block.thread(); r < row; r += kEmbeddingThreads) earlier += ids[r] == id;
    if (block_max(block, earlier, block.template shared<float>()) > 0) return;
    for (std::int64_t i = block.thread(); i < hidden; i += kEmbeddingThreads) {
      float sum = dtable[(id - first) * hidden + i];
      for (std::int64_t r = row; r < rows; ++r)
        if (ids[r] == id) sum += to_float(dx[r * hidden + i]);
      dtable[(id - first) * hidden + i] = sum;
    }
  }
};

}  // namespace llmplan::cuda
