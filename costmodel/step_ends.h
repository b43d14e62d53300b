// The two ends of a step of llmplan's own programs, bucket by bucket: weights that arrive while the first forward pass runs, and
// gradients that are reduced while the last backward pass does.
#pragma once

#include <array>
#include <cstdint>
#include <tuple>

#include "costmodel/block.h"

namespace llmplan {

// Of one stage, in seconds.
struct StageEnds {
  block::Buckets buckets;
  struct Bucket { double reduce = 0, stats = 0, update = 0, gather = 0; };
  std::array<Bucket, std::tuple_size_v<decltype(block::Buckets::runs)>> bucket;  // one of each run
  double norms = 0, scale = 0;   // the norms' sum over tp, the decision about the loss scale
  std::int64_t layers = 0, recomputed = 0;  // the first `recomputed` of them in the backward pass
  bool beside_compute = true;    // false: ranks on the cores of one machine, which compute and reduce with the same cores
  // The last backward pass: one layer that is kept or computed again, what of it follows its last matrix's gradient, and
  // the embedding's gradient; from the head's last gradient to the end of the pass.
  double kept = 0, again = 0, norm = 0, embedding = 0, after_head = 0;
  // The first forward pass, one layer of it, and what comes before the first weight is read, before the first layer's
  // matrices are, and between the layers and the head's.
  double forward = 0, layer = 0, before_weights = 0, before_layers = 0, before_head = 0;

  double over_buckets(double Bucket::*of) const {
    double sum = 0;
    for (std::size_t r = 0; r < bucket.size(); ++r) sum += static_cast<double>(buckets.runs[r].count) * bucket[r].*of;
    return sum;
  }
  double stats() const { return over_buckets(&Bucket::stats); }
  double updates() const { return over_buckets(&Bucket::update); }
  double computing() const { return scale + stats() + updates(); }  // what is no collective
};

// When the first forward pass ends at the earliest, counted from the start of the step; under ZeRO.
double weights_ready(const StageEnds&);

// Given when the last backward pass ends: when the last bucket may be reduced, and when the stage knows its part of the norm, if
// that bucket is not reduced before `tied`.
double last_bucket_free(const StageEnds&, double end);
double norm_known(const StageEnds&, double end, double tied);

}  // namespace llmplan
