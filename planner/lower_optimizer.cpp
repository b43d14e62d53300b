// The end of a step: every gradient summed over the ranks that share its parameter, bucket by bucket while earlier layers
// still compute theirs; the global norm; and the update. What ZeRO's ranks updated for each other they exchange at the start of
// the next step, bucket by bucket while its first layers compute.
#include <algorithm>
#include <span>
#include <tuple>

#include "planner/builder.h"

namespace llmplan::lowering {
namespace {

Ref part(Builder& b, BufferId id, const Bucket& bucket) { return b.flat(id, bucket.begin, bucket.elements); }
// This rank's slice of a bucket, in a buffer of its slices.
Ref slice(Builder& b, BufferId id, const Bucket& bucket) {
  const std::int64_t shards = b.shape.shards;
  return id < 0 ? Ref{} : b.flat(id, bucket.begin / shards, bucket.elements / shards);
}

// Adds up what the ranks of a step know: {Σ grad², Σ loss, tokens}. No buckets leave the norm out.
void world_stats(Builder& b, std::span<const Bucket> buckets) {
  const Ref stats = b.all(b.program.stats), loss = b.all_if(b.loss >= 0, b.loss);
  if (buckets.empty()) b.emit(GradStats{0, 1}, {b.flat(b.program.gradients, 0, 0), loss}, {stats});
  for (std::size_t k = buckets.size(); k-- > 0;) {  // in the order in which they are reduced
    const bool first = k + 1 == buckets.size();
    b.emit(block::bucket_stats(b.shape, buckets[k].elements, !first),
           {part(b, b.program.gradients, buckets[k]), first ? loss : Ref{}}, {stats});
  }
  if (b.plan.strategy.devices() > 1) b.emit(block::world_sum(), {}, {stats});
}

}  // namespace

void reduce_final(Builder& b, std::int64_t layer) {
  const auto found = std::find(b.final_after.begin(), b.final_after.end(), layer);
  if (found == b.final_after.end()) return;
  const Shapes& s = b.shape;
  const Weights& w = b.weights;
  const BufferId gradients = b.program.gradients;
  const auto before = std::tuple{b.phase, b.layer, b.micro_batch};
  b.phase = Phase::optimizer;
  b.layer = b.micro_batch = -1;

  if (layer == kEndOfPass) {
    if (s.sp && w.norms_end > w.norms_begin)  // each tp rank saw only its own rows
      reduce(b, Axis::tp, b.flat(gradients, w.norms_begin, w.norms_end - w.norms_begin), DType::fp32);
    if (s.tied && b.stage.count > 1 && (b.stage.first() || b.stage.last()))
      reduce(b, Axis::embedding, b.gradient(b.stage.first() ? w.embedding : w.head), DType::fp32);
  }
  const Bucket& bucket = b.program.buckets[static_cast<std::size_t>(found - b.final_after.begin())];
  if (s.dp > 1) b.emit(block::bucket_sum(s, bucket.elements), {}, {part(b, gradients, bucket)});

  std::tie(b.phase, b.layer, b.micro_batch) = before;
}

void gather_weights(Builder& b) {
  if (b.shape.shards == 1) return;
  b.phase = Phase::optimizer;
  b.layer = b.micro_batch = -1;
  for (const Bucket& bucket : b.program.buckets)
    b.emit(block::bucket_gather(b.shape, bucket.elements), {}, {part(b, b.program.weights, bucket)});
}

void optimizer_phase(Builder& b) {
  const Shapes& s = b.shape;
  Program& p = b.program;
  b.phase = Phase::optimizer;
  b.layer = b.micro_batch = -1;
  if (!b.training()) return world_stats(b, {});

  world_stats(b, p.buckets);
  const Ref stats = b.all(p.stats), scaling = b.all_if(s.scaled(), p.loss_scaling);
  if (s.scaled()) b.emit(LossScale{s.scale_window}, {}, {stats, scaling});
  for (const Bucket& bucket : p.buckets)
    b.emit(block::bucket_update(s, bucket.elements), {part(b, p.gradients, bucket), stats, scaling},
           {part(b, p.weights, bucket), slice(b, p.moment1, bucket), slice(b, p.moment2, bucket), slice(b, p.master, bucket)});
}

}  // namespace llmplan::lowering
