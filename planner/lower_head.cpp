// Both ends of the model: the embedding, and the final norm with the head and its loss, which work on
// Shapes::head_rows tokens at a time so that logits never exist whole.
#include <algorithm>

#include "planner/builder.h"

namespace llmplan::lowering {
namespace {

Weight& head_weight(Builder& b) {
  return b.weights.head.elements() ? b.weights.head : b.weights.embedding;  // tied on one stage: the same
}

// Loss of rows [first, first + rows), and for training its gradients. The gradient of the head's input
// replaces the input, which nothing reads afterwards.
void head_chunk(Builder& b, BufferId targets, BufferId x, std::int64_t first, std::int64_t rows) {
  const Shapes& s = b.shape;
  const Ref x_rows = b.rows(x, first, rows, s.hidden);
  const Ref target_rows = b.rows(targets, first, rows, 1);
  const BufferId logits = b.buffer("logits", rows * s.vocab, s.dtype, Category::logits);
  linear(b, x_rows, head_weight(b), b.all(logits), rows);

  BufferId stats = b.buffer("ce_stats", rows * 3, DType::fp32, Category::logits);
  b.emit(CrossEntropyStats{rows, s.vocab, s.vocab_total, s.dtype}, {b.all(logits), target_rows}, {b.all(stats)});
  if (s.tp > 1) {
    const BufferId every = b.buffer("ce_stats_tp", s.tp * rows * 3, DType::fp32, Category::logits);
    b.emit(Collective{Collective::Kind::all_gather, Axis::tp, b.all(every).size, DType::fp32}, {b.all(stats)},
           {b.all(every)});
    stats = every;
  }
  const bool first_ever = b.loss < 0;
  if (first_ever) b.loss = b.buffer("loss", 2, DType::fp64, Category::buffers);
  const bool scaled = b.training() && s.scaled();
  b.emit(CrossEntropyGrad{rows, s.vocab, s.vocab_total, s.tp, s.divisor, b.training(), !first_ever, s.dtype, scaled},
         {target_rows, b.all(stats), b.all_if(scaled, b.program.loss_scaling)}, {b.all(logits), b.all(b.loss)});
  if (!b.training()) return;

  b.phase = Phase::backward;
  linear_dw(b, b.all(logits), x_rows, head_weight(b), rows);
  linear_dx(b, b.all(logits), head_weight(b), x_rows, rows);
  b.phase = Phase::forward;
}

}  // namespace

void embedding_forward(Builder& b, MicroBatch& mb, Residual& r) {
  const Shapes& s = b.shape;
  const BufferId x = b.activation("embedding", s.rows * s.hidden);
  b.emit(Embedding{s.rows, s.hidden, s.vocab, s.dtype}, {b.all(mb.ids), b.value(b.weights.embedding)},
         {b.all(x)});
  r = {reduce_partial(b, x), -1, b.training()};
}

void embedding_backward(Builder& b, MicroBatch& mb, BufferId gradient) {
  const Shapes& s = b.shape;
  Weight& w = b.weights.embedding;
  const BufferId dx = gather_rows(b, gradient);
  b.emit(EmbeddingGrad{s.rows, s.hidden, s.vocab, w.written, s.dtype}, {b.all(mb.ids), b.all(dx)},
         {b.gradient(w)});
  w.written = true;
}

void head_forward(Builder& b, MicroBatch& mb, Residual& r) {
  const Shapes& s = b.shape;
  const Normed last = norm(b, r, b.weights.final_norm, false);
  const BufferId x = gather_rows(b, last.y.x);
  const std::int64_t step = s.head_rows;
  for (std::int64_t first = 0; first < s.rows; first += step)
    head_chunk(b, mb.targets, x, first, std::min(step, s.rows - first));
  if (!b.training()) return;
  mb.sum = r.sum;
  mb.rstd = last.rstd;
  b.phase = Phase::backward;
  mb.dy = reduce_partial(b, x);  // x now holds this rank's part of its own gradient
  b.phase = Phase::forward;
}

BufferId head_backward(Builder& b, MicroBatch& mb) {
  return norm_grad(b, mb.sum, mb.rstd, b.weights.final_norm, mb.dy);
}

}  // namespace llmplan::lowering
