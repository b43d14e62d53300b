// Gradient norm and AdamW on a slice of the flat buffers (op.h: GradStats, AdamW).
#pragma once

#include <math.h>

#include "executor/cuda/block.h"
#include "executor/loss_scale.h"
#include "executor/philox.h"

namespace llmplan::cuda {

// A run of parameters in the flat buffer with one treatment; sorted, not overlapping. What lies between
// segments is padding.
struct Segment {
  std::int64_t begin, end;
  std::int32_t decay;    // weight decay applies
  std::int32_t counted;  // this rank counts them in the gradient norm
  NoisePlace noise{};    // stochastic rounding: where they stand in the whole tensor
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
// The segment that holds element `at`; null for padding, which stays what it is: zero.
LLMPLAN_HD const Segment* segment_of(const Segment* segments, std::int64_t count, std::int64_t at) {
  std::int64_t s = find_segment(segments, count, at);
  return s < count && segments[s].begin <= at ? segments + s : nullptr;
}

inline constexpr int kNormSumThreads = 256;
inline constexpr std::int64_t kNormSumTile = 64 * 1024;  // elements per block, so per partial sum
LLMPLAN_HD std::int64_t norm_sum_blocks(std::int64_t elements) { return ceil_div(elements, kNormSumTile); }

// partial[b] = Σ g² over the b-th tile of the slice [begin, begin + elements), counted segments only. A bucket begins at
// element `bucket` of the flat buffer.
struct GradSquaresKernel {
  std::int64_t bucket, begin, elements, segment_count;
  const Segment* segments;
  const float* gradients;  // of the bucket
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
        sum += static_cast<double>(gradients[i - bucket]) * gradients[i - bucket];
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

// stats = {Σ partial in order, loss sum, counted tokens}, or the sum is added; one warp, of which one lane works: there are few.
struct GradStatsKernel {
  std::int64_t partials;
  bool accumulate;
  const double* partial;
  const double* loss;  // null: this rank does not count the loss
  double* stats;

  Launch launch() const { return {1, 32, 0}; }

  template <class Block>
  LLMPLAN_HD void operator()(Block& block) const {
    if (block.thread() != 0) return;
    double sum = 0;
    for (std::int64_t i = 0; i < partials; ++i) sum += partial[i];
    stats[0] = accumulate ? stats[0] + sum : sum;
    if (accumulate) return;
    stats[1] = loss ? loss[0] : 0;
    stats[2] = loss ? loss[1] : 0;
  }
};

// One thread: there is one decision to take.
struct LossScaleKernel {
  std::int64_t window;
  double beta1, beta2;
  double* stats;
  LossScaling* scaling;

  Launch launch() const { return {1, 32, 0}; }

  template <class Block>
  LLMPLAN_HD void operator()(Block& block) const {
    if (block.thread() == 0) decide_loss_scale(window, beta1, beta2, stats, *scaling);
  }
};

// What changes from step to step; in device memory, so that a captured graph need not change.
struct AdamScalars {
  double learning_rate;
  double correction1, correction2;  // 1 − beta^step
  std::int64_t step = 0;            // for stochastic rounding
};

// What the update of an element needs beside its state; the same for all of them.
struct AdamUpdate {
  std::int64_t divisor;
  double beta1, beta2, eps, weight_decay, clip;
  const AdamScalars* scalars;
  const double* stats;         // {Σ grad², Σ loss, counted tokens} of the world
  const LossScaling* scaling;  // null: gradients carry no loss scale

  LLMPLAN_HD bool skips() const { return scaling && scaling->apply == 0; }
  // Decoupled weight decay (Loshchilov & Hutter 2019); arithmetic in fp32, bias correction in fp64 by the host.
  LLMPLAN_HD void operator()(float gradient, bool decay, float& w, float& m, float& v) const {
    double scale = stats[2] > 0 ? static_cast<double>(divisor) / stats[2] : 0;
    double norm = sqrt(stats[0]) * scale;
    if (clip > 0 && norm + 1e-6 > clip) scale *= clip / (norm + 1e-6);
    if (scaling) scale *= scaling->inverse;
    double fix1 = scaling ? scaling->correction1 : scalars->correction1;
    double fix2 = scaling ? scaling->correction2 : scalars->correction2;
    float g = gradient * static_cast<float>(scale);
    float b1 = static_cast<float>(beta1), b2 = static_cast<float>(beta2);
    m = b1 * m + (1.0f - b1) * g;
    v = b2 * v + (1.0f - b2) * g * g;
    float lr = static_cast<float>(scalars->learning_rate);
    if (decay) w -= lr * static_cast<float>(weight_decay) * w;
    float step = static_cast<float>(scalars->learning_rate / fix1);
    w -= step * m / (sqrtf(v) / static_cast<float>(sqrt(fix2)) + static_cast<float>(eps));
  }
};

inline constexpr int kAdamThreads = 256;

template <class T>
struct AdamWKernel {
  std::int64_t bucket, begin, elements, segment_count;  // as above
  AdamUpdate update;
  const Segment* segments;
  const float* gradients;  // of the bucket
  T* weights;              // of the bucket
  float* m;                // the slice
  float* v;
  float* master;           // the slice; null when the weights are fp32 themselves

  Launch launch() const { return {ceil_div(elements, kAdamThreads), kAdamThreads, 0}; }

  template <class Block>
  LLMPLAN_HD void operator()(Block& block) const {
    std::int64_t i = block.index() * kAdamThreads + block.thread(), at = begin + i;
    if (i >= elements || update.skips()) return;
    const Segment* segment = segment_of(segments, segment_count, at);
    if (!segment) return;
    float w = master ? master[i] : to_float(weights[at - bucket]);
    update(gradients[at - bucket], segment->decay, w, m[i], v[i]);
    if (master) master[i] = w;
    weights[at - bucket] = from_float<T>(w);
  }
};

// Without a master: weights and moments are bf16, each rounded up or down at random (executor/philox.h).
struct LeanAdamWKernel {
  std::int64_t bucket, begin, elements, segment_count, seed;
  AdamUpdate update;
  const Segment* segments;
  const float* gradients;
  BFloat16* weights;
  BFloat16* m;
  BFloat16* v;

  Launch launch() const { return {ceil_div(elements, kAdamThreads), kAdamThreads, 0}; }

  template <class Block>
  LLMPLAN_HD void operator()(Block& block) const {
    std::int64_t i = block.index() * kAdamThreads + block.thread(), at = begin + i;
    if (i >= elements || update.skips()) return;
    const Segment* segment = segment_of(segments, segment_count, at);
    if (!segment) return;
    float w = to_float(weights[at - bucket]), mi = to_float(m[i]), vi = to_float(v[i]);
    update(gradients[at - bucket], segment->decay, w, mi, vi);
    Random4 random = noise(segment->noise, at - segment->begin, update.scalars->step, seed);
    weights[at - bucket] = {stochastic_bf16(w, random.at[0])};
    m[i] = {stochastic_bf16(mi, random.at[1])};
    v[i] = {stochastic_bf16(vi, random.at[2])};
  }
};

}  // namespace llmplan::cuda
