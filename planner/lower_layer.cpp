// One decoder layer: forward, recomputation, backward.
#include "planner/builder.h"

namespace llmplan::lowering {
namespace {

// From the normed input to the projection that closes the attention block, without it.
void attention_core(Builder& b, LayerWeights& w, LayerState& l) {
  const Shapes& s = b.shape;
  l.whole1 = gather_rows(b, l.xn1);
  l.qkv = b.activation("qkv", s.rows * s.qkv);
  linear(b, b.all(l.whole1), w.qkv, b.all(l.qkv), s.rows);
  b.emit(Rope{s.rows, s.seq, s.heads, s.kv_heads, s.head_dim, false, s.dtype}, {b.all(b.program.rope_table)},
         {b.all(l.qkv)});
  l.out = b.activation("attn", s.rows * s.attn);
  l.lse = b.buffer("lse", s.rows * s.heads, DType::fp32);
  b.emit(Attention{s.micro_batch, s.seq, s.heads, s.kv_heads, s.head_dim, true, s.dtype}, {b.all(l.qkv)},
         {b.all(l.out), b.all(l.lse)});
}

// The same for the MLP.
void mlp_core(Builder& b, LayerWeights& w, LayerState& l) {
  const Shapes& s = b.shape;
  l.whole2 = gather_rows(b, l.xn2);
  l.gate_up = b.activation("gate_up", s.rows * 2 * s.ffn);
  linear(b, b.all(l.whole2), w.gate_up, b.all(l.gate_up), s.rows);
  l.act = b.activation("act", s.rows * s.ffn);
  b.emit(SwiGlu{s.rows, s.ffn, s.dtype}, {b.all(l.gate_up)}, {b.all(l.act)});
}

// The projection back to the residual stream's width, summed over the tp ranks.
BufferId project(Builder& b, const Weight& w, BufferId x) {
  const BufferId y = b.activation("delta", b.shape.rows * b.shape.hidden);
  linear(b, b.all(x), w, b.all(y), b.shape.rows);
  return reduce_partial(b, y);
}

// Norm, attention block, norm, MLP up to its activation: all that a backward needs.
void forward_to_activation(Builder& b, LayerWeights& w, LayerState& l, Residual& r, bool keeps_input) {
  const Normed first = norm(b, r, w.norm1);
  l.sum1 = r.sum, l.xn1 = first.y, l.rstd1 = first.rstd;
  r.saved = keeps_input;
  attention_core(b, w, l);
  r.delta = project(b, w.o, l.out);
  const Normed second = norm(b, r, w.norm2);
  l.sum2 = r.sum, l.xn2 = second.y, l.rstd2 = second.rstd;
  mlp_core(b, w, l);
}

// Under sp the backward of a column-parallel linear needs all ranks' rows of its input again
// (Korthikanti et al. 2022, §4.2.2); storing them whole would cost tp times the memory.
BufferId gathered(Builder& b, BufferId whole, BufferId own) { return whole >= 0 ? whole : gather_rows(b, own); }

// Column-parallel linear. The tp ranks' sum is under way while the weight's gradient is computed.
BufferId column_parallel_grad(Builder& b, Weight& w, BufferId dy, BufferId whole, BufferId own) {
  const Shapes& s = b.shape;
  const BufferId x = gathered(b, whole, own);
  const BufferId partial = b.activation("dxn", s.rows * s.hidden);
  linear_dx(b, b.all(dy), w, b.all(partial), s.rows);
  const BufferId dx = reduce_partial(b, partial);
  linear_dw(b, b.all(dy), b.all(x), w, s.rows);
  return dx;
}

}  // namespace

LayerState layer_forward(Builder& b, LayerWeights& w, Residual& r) {
  const std::int64_t local = b.layer - b.stage.first_layer;
  const Strategy& strategy = b.plan.strategy;
  const bool recomputed = strategy.recompute == Recompute::full &&
                          (strategy.recompute_layers == 0 || local < strategy.recompute_layers);
  LayerState l;
  forward_to_activation(b, w, l, r, b.training());
  r.saved = b.training() && !recomputed;
  r.delta = project(b, w.down, l.act);
  if (recomputed) {
    const BufferId input = l.sum1;
    l = {};
    l.sum1 = input;
  }
  if (b.shape.sp) l.whole1 = l.whole2 = -1;
  return l;
}

void layer_recompute(Builder& b, LayerWeights& w, LayerState& l) {
  if (l.xn1 >= 0) return;  // everything was kept
  b.phase = Phase::recompute;
  Residual r{l.sum1, -1, true};
  forward_to_activation(b, w, l, r, true);  // no backward reads the down projection's output
  b.phase = Phase::backward;
}

void layer_backward(Builder& b, LayerWeights& w, LayerState& l, BufferId gradient) {
  const Shapes& s = b.shape;

  BufferId g = gather_rows(b, gradient);
  linear_dw(b, b.all(g), b.all(l.act), w.down, s.rows);
  const BufferId dact = b.activation("dact", s.rows * s.ffn);
  linear_dx(b, b.all(g), w.down, b.all(dact), s.rows);
  b.emit(SwiGluGrad{s.rows, s.ffn, s.dtype}, {b.all(l.gate_up), b.all(dact)}, {b.all(l.gate_up)});
  const BufferId dxn2 = column_parallel_grad(b, w.gate_up, l.gate_up, l.whole2, l.xn2);
  norm_grad(b, l.sum2, l.rstd2, w.norm2, dxn2, gradient);

  g = gather_rows(b, gradient);
  linear_dw(b, b.all(g), b.all(l.out), w.o, s.rows);
  const BufferId dout = b.activation("dattn", s.rows * s.attn);
  linear_dx(b, b.all(g), w.o, b.all(dout), s.rows);
  const BufferId dqkv = b.activation("dqkv", s.rows * s.qkv);
  const BufferId scratch = b.buffer("attn_delta", s.rows * s.heads, DType::fp32, Category::buffers);
  b.emit(AttentionGrad{s.micro_batch, s.seq, s.heads, s.kv_heads, s.head_dim, true, s.dtype},
         {b.all(l.qkv), b.all(l.out), b.all(l.lse), b.all(dout)}, {b.all(dqkv), b.all(scratch)});
  b.emit(Rope{s.rows, s.seq, s.heads, s.kv_heads, s.head_dim, true, s.dtype}, {b.all(b.program.rope_table)},
         {b.all(dqkv)});
  const BufferId dxn1 = column_parallel_grad(b, w.qkv, dqkv, l.whole1, l.xn1);
  norm_grad(b, l.sum1, l.rstd1, w.norm1, dxn1, gradient);
}

}  // namespace llmplan::lowering
