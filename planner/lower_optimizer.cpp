// The end of a step: every gradient summed over the ranks that share its parameter, the global norm,
// and the update.
#include "planner/builder.h"

namespace llmplan::lowering {
namespace {

// Adds up what the ranks of a step know: {Σ grad², Σ loss, tokens}. `elements` 0 leaves the norm out.
void world_stats(Builder& b, std::int64_t elements, std::int64_t shards) {
  const Ref stats = b.all(b.program.stats);
  const Ref gradients = b.flat(b.program.gradients, 0, elements * shards);
  if (b.loss >= 0)
    b.emit(GradStats{elements, shards}, {gradients, b.all(b.loss)}, {stats});
  else
    b.emit(GradStats{elements, shards}, {gradients}, {stats});
  if (b.plan.strategy.devices() > 1) reduce(b, Axis::world, stats, DType::fp64);
}

}  // namespace

void optimizer_phase(Builder& b) {
  const Shapes& s = b.shape;
  const Weights& w = b.weights;
  Program& p = b.program;
  b.phase = Phase::optimizer;
  b.layer = b.micro_batch = -1;
  if (!b.training()) return world_stats(b, 0, 1);

  if (b.plan.model.tie_word_embeddings && b.stage.count > 1 && (b.stage.first() || b.stage.last()))
    reduce(b, Axis::embedding, b.gradient(b.stage.first() ? w.embedding : w.head), DType::fp32);
  if (s.sp && w.norms_end > w.norms_begin)  // each tp rank saw only its own rows
    reduce(b, Axis::tp, b.flat(p.gradients, w.norms_begin, w.norms_end - w.norms_begin), DType::fp32);

  const bool sharded = s.shards > 1;
  const std::int64_t shards = s.shards, elements = w.elements / shards;
  const Ref gradients = b.all(p.gradients);
  if (sharded)
    b.emit(Collective{Collective::Kind::reduce_scatter, Axis::dp, gradients.size, DType::fp32}, {}, {gradients});
  else if (s.dp > 1)
    reduce(b, Axis::dp, gradients, DType::fp32);

  world_stats(b, elements, shards);
  const Ref weights = b.all(p.weights), stats = b.all(p.stats);
  const Ref scaling = b.all_if(s.scaled(), p.loss_scaling);
  if (s.scaled()) b.emit(LossScale{s.scale_window}, {}, {stats, scaling});
  b.emit(AdamW{elements, shards, s.divisor, s.dtype, s.scaled(), s.lean, s.seed}, {gradients, stats, scaling},
         {weights, b.all(p.moment1), b.all(p.moment2), b.all_if(p.master >= 0, p.master)});
  if (sharded)
    b.emit(Collective{Collective::Kind::all_gather, Axis::dp, weights.size, s.dtype}, {}, {weights});
}

}  // namespace llmplan::lowering
