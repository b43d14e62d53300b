#include "costmodel/step_ends.h"

#include <algorithm>
#include <limits>

namespace llmplan {
namespace {

using std::int64_t;

// When every gradient of the layers from `layers` on is final.
double final_at(const StageEnds& c, double end, int64_t layers) {
  if (layers == c.layers) return end - c.after_head;
  const int64_t again = std::min(c.recomputed, layers);
  const double below = static_cast<double>(again) * c.again + static_cast<double>(layers - again) * c.kept;
  return end - c.embedding - below - c.norm;
}

// When the last bucket may be reduced, and, of what is reduced by then, when this rank knows its part of the norm.
struct Reduced { double free = 0, known = 0; };

// Collectives follow each other, and so do the sums of squares, which wait for the end of the pass. With n buckets of R and S seconds
// that become final at f₁ … fₙ,
//   free = max(free + nR, max over k of f_k + (n − k + 1)R),   known = max(known + nS, max over k of free_k + (n − k + 1)S).
// f is convex in k, since recomputed layers are the first of a stage and the slower ones; so both inner maxima are at an end.
Reduced reduce_buckets(const StageEnds& c, double end) {
  const double all = end + c.norms;  // every gradient is final
  Reduced at{-std::numeric_limits<double>::infinity(), all};
  if (!c.beside_compute) {
    at.free = all;
    for (std::size_t r = 0; r + 1 < c.bucket.size(); ++r) at.free += static_cast<double>(c.buckets.runs[r].count) * c.bucket[r].reduce;
    return at;
  }
  int64_t layers = c.layers;
  for (std::size_t r = 0; r + 1 < c.bucket.size(); ++r) {
    const block::BucketRun& run = c.buckets.runs[r];
    if (run.count == 0) continue;
    const double n = static_cast<double>(run.count), reduce = c.bucket[r].reduce, stats = c.bucket[r].stats;
    const double first = final_at(c, end, layers - run.layers), last = final_at(c, end, layers -= run.count * run.layers);
    const double first_free = std::max(at.free, first) + reduce;
    at.free = std::max(first_free + (n - 1) * reduce, last + reduce);
    at.known = std::max({at.known + n * stats, first_free + n * stats, at.free + stats});
  }
  at.free = std::max(at.free, all);
  return at;
}

}  // namespace

double last_bucket_free(const StageEnds& c, double end) { return reduce_buckets(c, end).free; }

double norm_known(const StageEnds& c, double end, double tied) {
  const Reduced before = reduce_buckets(c, end);
  const double summed = std::max(tied, before.free) + c.bucket.back().reduce;
  return c.beside_compute ? std::max(before.known, summed) + c.bucket.back().stats : summed + c.stats();
}

// A step begins by gathering the weights, in the order in which the forward pass reads them. Of n buckets of G seconds each, with r_k
// the time from the first read of the k-th to the end of the pass, the last one to matter is the first or the last: max over k of
// g + kG + r_k, and r falls by as much from each to the next.
double weights_ready(const StageEnds& c) {
  if (!c.beside_compute) return c.over_buckets(&StageEnds::Bucket::gather) + c.forward;
  const auto rest = [&](int64_t layer) { return c.forward - c.before_layers - static_cast<double>(layer) * c.layer; };
  const auto& [with_head, middle, first_of_all] = c.buckets.runs;
  double gathered = c.bucket[2].gather;
  double ready = gathered + c.forward - c.before_weights;
  int64_t layer = first_of_all.layers;
  if (middle.count > 0) {
    const double first = gathered + c.bucket[1].gather;
    gathered += static_cast<double>(middle.count) * c.bucket[1].gather;
    ready = std::max({ready, first + rest(layer), gathered + rest(layer + (middle.count - 1) * middle.layers)});
    layer += middle.count * middle.layers;
  }
  if (with_head.count > 0) {
    gathered += c.bucket[0].gather;
    const double head = c.forward - static_cast<double>(c.layers) * c.layer - c.before_head;
    ready = std::max(ready, gathered + (with_head.layers > 0 ? rest(layer) : head));
  }
  return ready;
}

}  // namespace llmplan
