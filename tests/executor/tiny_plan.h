// A model small enough to train in milliseconds, whose sizes are awkward on purpose, and plans for it.
#pragma once

#include <cmath>
#include <span>
#include <string>
#include <vector>

#include "costmodel/profiles/profiles.h"
#include "costmodel/strategy.h"
#include "executor/random.h"
#include "executor/ranks.h"
#include "planner/plan.h"

namespace llmplan {

inline const Cluster& local_ranks() {
  static const Cluster cluster = local_cluster();
  return cluster;
}

inline ModelConfig tiny_model(bool tied) {
  ModelConfig m;
  m.name = tied ? "tiny-tied" : "tiny";
  m.hidden_size = 48;
  m.num_hidden_layers = 4;
  m.intermediate_size = 92;
  m.num_attention_heads = 8;
  m.num_key_value_heads = 4;
  m.head_dim = 6;
  m.vocab_size = 131;  // no tp divides it
  m.max_position_embeddings = 64;
  m.tie_word_embeddings = tied;
  return m;
}

inline Plan tiny_plan(const Strategy& strategy, bool tied = false) {
  Plan p;
  p.model = tiny_model(tied);
  p.cluster = local_ranks();
  p.workload.seq = 24;
  p.workload.global_batch = 8;
  p.workload.precision = DType::fp32;
  p.workload.optimizer.warmup_steps = 2;
  p.workload.optimizer.lr = 3e-3;
  p.strategy = strategy;
  return p;
}

// Sequences with a pattern to learn, the same for every strategy. Sample 5 has no targets at all and
// sample 2 only some, so that micro-batches count different numbers of tokens.
inline void tiny_samples(std::int64_t step, std::int64_t vocabulary, std::int64_t i, std::span<std::int32_t> ids,
                         std::span<std::int32_t> targets) {
  auto token = [&](std::size_t t) {
    std::uint64_t noise = mix64(static_cast<std::uint64_t>(step * 1000 + i), t / 2);
    return static_cast<std::int32_t>((noise % 17 * 7 + t % 2) % static_cast<std::uint64_t>(vocabulary));
  };
  for (std::size_t t = 0; t < ids.size(); ++t) {
    ids[t] = token(t);
    targets[t] = i == 5 || (i == 2 && t % 3 == 0) ? -1 : token(t + 1);
  }
}

inline SampleSource tiny_source(std::int64_t step, std::int64_t vocabulary = 131) {
  return [=](std::int64_t i, std::span<std::int32_t> ids, std::span<std::int32_t> targets) {
    tiny_samples(step, vocabulary, i, ids, targets);
  };
}

// |a − b| / |b|, Euclidean.
inline double distance(std::span<const float> a, std::span<const float> b) {
  double difference = 0, norm = 0;
  for (std::size_t i = 0; i < b.size(); ++i) {
    double d = static_cast<double>(a[i]) - static_cast<double>(b[i]);
    difference += d * d;
    norm += static_cast<double>(b[i]) * static_cast<double>(b[i]);
  }
  return std::sqrt(difference / norm);
}

}  // namespace llmplan
