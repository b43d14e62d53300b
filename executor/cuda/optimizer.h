// Gradient norm and AdamW on a slice of the flat buffers (op.h: GradStats, AdamW).
#pragma once

#include <math.h>

#include "executor/cuda/block.h"

namespace llmplan::cuda {

// A run of parameters in the flat buffer with one treatment; sorted, not overlapping. What lies between
// segments is padding.
struct Segment {
  std::int64_t begin, end;
  std::int32_t decay;    // weight decay applies
  std::int32_t counted;  // this rank counts them in the gradient norm
};

// The segment that holds element `at`, or the next one after it; `count` if there is none.
LLMPLAN_HD std::int64_t find_segment(const Segment* segments, std::int64_t count, std::int64_t at) {
  std::int64_t low = 0, high = count;
  while (low < high) {
    std::int64_t middle = (low + high) / 2;
    if (segments[middle].end <= at) low = middle + 1;
    else high = middle;
  }
  return low;
}

inline constexpr int kNormSumThreads = 256;
inline constexpr std::int64_t kNormSumTile = 64 * 1024;  // elements per block, so per partial sum
LLMPLAN_HD std::int64_t norm_sum_blocks(std::int64_t elements) { return ceil_div(elements, kNormSumTile); }

// partial[b] = Σ g² over the b-th tile of the slice [begin, begin + elements), counted segments only.
struct GradSquaresKernel {
  std::int64_t begin, elements, segment_count;
  const Segment* segments;
  const float* gradients;  // whole flat buffer
  double* partial;         // [norm_sum_blocks(elements)]

  Launch launch() const { return {norm_sum_blocks(elements), kNormSumThreads, kNormSumThreads * sizeof(double)}; }

  template <class Block>
  LLMPLAN_HD void operator()(Block& block) const {
    std::int64_t from = begin + block.index() * kNormSumTile, to = from + kNormSumTile;
    if (to > begin + elements) to = begin + elements;
    double sum = 0;
    for (std::int64_t s = find_segment(segments, segment_count, from); s < segment_count && segments[s].begin < to; ++s) {
      if (!segments[s].counted) continue;
      std::int64_t a = segments[s].begin > from ? segments[s].begin : from, b = segments[s].end < to ? segments[s].end : to;
      for (std::int64_t i = a + block.thread(); i < b; i += kNormSumThreads)
        sum += static_cast<double>(gradients[i]) * gradients[i];
    }
    double* sums = block.template shared<double>();
    sums[block.thread()] = sum;
    block.sync();
    for (int half = kNormSumThreads / 2; half > 0; half /= 2) {
      if (block.thread() < half) sums[block.thread()] += sums[block.thread() + half];
      block.sync();
    }
    if (block.thread() == 0) partial[block.index()] = sums[0];
  }
};

// stats = {Σ partial in order, loss sum, counted tokens}; one warp, of which one lane works: there are few.
struct GradStatsKernel {
  std::int64_t partials;
  const double* partial;
  const double* loss;  // null: this rank does not count the loss
  double* stats;

  Launch launch() const { return {1, 32, 0}; }

  template <class Block>
  LLMPLAN_HD void operator()(Block& block) const {
    if (block.thread() != 0) return;
    double sum = 0;
    for (std::int64_t i = 0; i < partials; ++i) sum += partial[i];
    stats[0] = sum;
    stats[1] = loss ? loss[0] : 0;
    stats[2] = loss ? loss[1] : 0;
  }
};

// What changes from step to step; in device memory, so that a captured graph need not change.
struct AdamScalars {
  double learning_rate;
  double correction1, correction2;  // 1 − beta^step
};

// Decoupled weight decay (Loshchilov & Hutter 2019); arithmetic in fp32, bias correction in fp64 by the host.
template <class T>
struct AdamWKernel {
  std::int64_t begin, elements, divisor, segment_count;
  double beta1, beta2, eps, weight_decay, clip;
  const Segment* segments;
  const AdamScalars* scalars;
  const float* gradients;  // whole flat buffer
  const double* stats;     // {Σ grad², Σ loss, counted tokens} of the world
  T* weights;              // whole flat buffer
  float* m;                // the slice
  float* v;
  float* master;           // the slice; null when the weights are fp32 themselves

  static constexpr int kThreads = 256;
  Launch launch() const { return {ceil_div(elements, kThreads), kThreads, 0}; }

  template <class Block>
  LLMPLAN_HD void operator()(Block& block) const {
    std::int64_t i = block.index() * kThreads + block.thread(), at = begin + i;
    if (i >= elements) return;
    std::int64_t s = find_segment(segments, segment_count, at);
    if (s == segment_count || segments[s].begin > at) return;  // padding stays what it is: zero
    double scale = stats[2] > 0 ? static_cast<double>(divisor) / stats[2] : 0;
    double norm = sqrt(stats[0]) * scale;
    if (clip > 0 && norm + 1e-6 > clip) scale *= clip / (norm + 1e-6);
    float g = gradients[at] * static_cast<float>(scale);
    float b1 = static_cast<float>(beta1), b2 = static_cast<float>(beta2);
    float mi = b1 * m[i] + (1.0f - b1) * g, vi = b2 * v[i] + (1.0f - b2) * g * g;
    m[i] = mi;
    v[i] = vi;
    float w = master ? master[i] : to_float(weights[at]);
    float lr = static_cast<float>(scalars->learning_rate);
    if (segments[s].decay) w -= lr * static_cast<float>(weight_decay) * w;
    float step = static_cast<float>(scalars->learning_rate / scalars->correction1);
    float root = sqrtf(vi) / static_cast<float>(sqrt(scalars->correction2)) + static_cast<float>(eps);
    w -= step * mi / root;
    if (master) master[i] = w;
    weights[at] = from_float<T>(w);
  }
};

}  // namespace llmplan::cuda
