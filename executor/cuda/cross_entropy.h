// Softmax cross entropy over a vocabulary that tp ranks share (op.h: CrossEntropyStats, CrossEntropyGrad).
#pragma once

#include <math.h>

#include "costmodel/op.h"
#include "executor/cuda/block.h"

namespace llmplan::cuda {

inline constexpr int kEntropyThreads = 512;
inline constexpr float kMinusInfinity = -3.402823466e38f;  // finite: differences of it stay numbers

// One block per row: max, Σ exp(logit − max), target's logit.
template <class T>
struct CrossEntropyStatsKernel {
  std::int64_t rows, vocab, valid, first;  // columns [first, first + valid) of the vocabulary are real
  const T* logits;
  const std::int32_t* targets;
  float* stats;

  Launch launch() const { return {rows, kEntropyThreads, kEntropyThreads / 32 * sizeof(float)}; }

  template <class Block>
  LLMPLAN_HD void operator()(Block& block) const {
    std::int64_t row = block.index();
    const T* line = logits + row * vocab;
    float* scratch = block.template shared<float>();
    float best = kMinusInfinity;
    for (std::int64_t i = block.thread(); i < valid; i += kEntropyThreads) best = fmaxf(best, to_float(line[i]));
    best = block_max(block, best, scratch);
    float sum = 0;
    for (std::int64_t i = block.thread(); i < valid; i += kEntropyThreads) sum += expf(to_float(line[i]) - best);
    sum = block_sum(block, sum, scratch);
    if (block.thread() == 0) {
      std::int64_t target = targets[row] - first;
      stats[row * 3] = best;
      stats[row * 3 + 1] = sum;
      stats[row * 3 + 2] = target >= 0 && target < valid ? to_float(line[target]) : 0.0f;
    }
  }
};

struct RowStats { float best, sum, target; };

// The whole vocabulary's statistics of a row from those of all tp ranks, in rank order.
LLMPLAN_HD RowStats combine(const float* stats, std::int64_t shards, std::int64_t rows, std::int64_t row) {
  RowStats all{kMinusInfinity, 0, 0};
  for (std::int64_t s = 0; s < shards; ++s) all.best = fmaxf(all.best, stats[(s * rows + row) * 3]);
  for (std::int64_t s = 0; s < shards; ++s) {
    const float* part = stats + (s * rows + row) * 3;
    all.sum += part[1] * expf(part[0] - all.best);
    all.target += part[2];
  }
  return all;
}

// logits become dlogits = (softmax − onehot)/divisor; one block per row.
template <class T>
struct CrossEntropyGradKernel {
  std::int64_t rows, vocab, valid, first, shards, divisor;
  const std::int32_t* targets;
  const float* stats;
  T* logits;
  const LossScaling* scaling = nullptr;  // null: the loss is not scaled

  Launch launch() const { return {rows, kEntropyThreads, 0}; }

  template <class Block>
  LLMPLAN_HD void operator()(Block& block) const {
    std::int64_t row = block.index(), target = targets[row] - first;
    bool counts = targets[row] >= 0;
    RowStats all = combine(stats, shards, rows, row);
    float scale = counts ? (scaling ? static_cast<float>(scaling->scale) : 1.0f) / static_cast<float>(divisor) : 0.0f;
    T* line = logits + row * vocab;
    for (std::int64_t i = block.thread(); i < vocab; i += kEntropyThreads) {
      float p = i < valid ? expf(to_float(line[i]) - all.best) / all.sum : 0.0f;
      line[i] = from_float<T>((p - (i == target && counts ? 1.0f : 0.0f)) * scale);
    }
  }
};

// loss[0] (+)= Σ loss of the rows, loss[1] (+)= rows with a target: one block, fixed order.
struct CrossEntropyLossKernel {
  std::int64_t rows, shards;
  bool accumulate;
  const std::int32_t* targets;
  const float* stats;
  double* loss;

  static constexpr int kThreads = 256;
  Launch launch() const { return {1, kThreads, 2 * kThreads * sizeof(double)}; }

  template <class Block>
  LLMPLAN_HD void operator()(Block& block) const {
    double* sums = block.template shared<double>();
    double* counts = sums + kThreads;
    double sum = 0, count = 0;
    for (std::int64_t row = block.thread(); row < rows; row += kThreads) {
      if (targets[row] < 0) continue;
      RowStats all = combine(stats, shards, rows, row);
      sum += static_cast<double>(all.best) + log(static_cast<double>(all.sum)) - all.target;
      count += 1;
    }
    sums[block.thread()] = sum;
    counts[block.thread()] = count;
    block.sync();
    if (block.thread() != 0) return;
    for (int t = 1; t < kThreads; ++t) { sum += sums[t]; count += counts[t]; }
    loss[0] = accumulate ? loss[0] + sum : sum;
    loss[1] = accumulate ? loss[1] + count : count;
  }
};

}  // namespace llmplan::cuda
