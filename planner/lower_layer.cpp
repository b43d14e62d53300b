// One decoder layer: forward, recomputation, backward.
#include "planner/builder.h"

namespace llmplan::lowering {
namespace {

// Under sp all rows, of which each tp rank normed some; otherwise what there is. In fp8 they are quantised once they are
// together, so that all ranks agree on the factor without asking each other.
Operand gathered(Builder& b, const Operand& own, Layout8 layout) {
  return b.shape.sp ? operand(b, gather_rows(b, own.x), b.shape.hidden, DType::fp8_e4m3, layout) : own;
}
// What a forward pass needs of it; recomputation also what the weights' gradients do.
Layout8 forward_layout(const Builder& b) { return b.phase == Phase::recompute ? Layout8::both : Layout8::straight; }

BufferId starts(Builder& b) { return b.micro_batches[b.micro_batch].starts; }

// From the normed input to the projection that closes the attention block, without it.
void attention_core(Builder& b, LayerWeights& w, LayerState& l) {
  const Shapes& s = b.shape;
  l.whole1 = gathered(b, l.xn1, forward_layout(b));
  l.qkv = b.activation("qkv", s.rows * s.qkv);
  layer_linear(b, l.whole1, w.qkv, l.qkv);
  const Ref documents = b.all_if(s.documents, starts(b));
  b.emit(Rope{s.rows, s.seq, s.heads, s.kv_heads, s.head_dim, false, s.dtype, s.documents},
         {b.all(b.program.rope_table), documents}, {b.all(l.qkv)});
  l.out = b.activation("attn", s.rows * s.attn);
  l.lse = b.buffer("lse", s.rows * s.heads, DType::fp32);
  b.emit(Attention{s.micro_batch, s.seq, s.heads, s.kv_heads, s.head_dim, true, s.dtype, s.documents},
         {b.all(l.qkv), documents}, {b.all(l.out), b.all(l.lse)});
}

// The same for the MLP.
void mlp_core(Builder& b, LayerWeights& w, LayerState& l) {
  const Shapes& s = b.shape;
  l.whole2 = gathered(b, l.xn2, forward_layout(b));
  l.gate_up = b.activation("gate_up", s.rows * 2 * s.ffn);
  layer_linear(b, l.whole2, w.gate_up, l.gate_up);
  l.act = quantized_result(b, "act", s.rows, s.ffn, DType::fp8_e4m3);
  b.emit(SwiGlu{s.rows, s.ffn, s.dtype, s.fp8}, {b.all(l.gate_up)},
         {b.all(l.act.x), b.all_if(s.fp8, l.act.transposed), b.all_if(s.fp8, l.act.factor)});
}

// The projection back to the residual stream's width, summed over the tp ranks.
BufferId project(Builder& b, const Weight& w, const Operand& x) {
  const BufferId y = b.activation("delta", b.shape.rows * b.shape.hidden);
  layer_linear(b, x, w, y);
  return reduce_partial(b, y);
}

// Norm, attention block, norm, MLP up to its activation: all that a backward needs.
void forward_to_activation(Builder& b, LayerWeights& w, LayerState& l, Residual& r, bool keeps_input) {
  const Shapes& s = b.shape;
  const Normed first = norm(b, r, w.norm1);
  l.sum1 = r.sum, l.xn1 = first.y, l.rstd1 = first.rstd;
  r.saved = keeps_input;
  attention_core(b, w, l);
  r.delta = project(b, w.o, operand(b, l.out, s.attn, DType::fp8_e4m3, Layout8::straight));
  const Normed second = norm(b, r, w.norm2);
  l.sum2 = r.sum, l.xn2 = second.y, l.rstd2 = second.rstd;
  mlp_core(b, w, l);
}

// Column-parallel linear. The tp ranks' sum is under way while the weight's gradient is computed. Under sp its
// input is needed whole again (Korthikanti et al. 2022, §4.2.2); storing it whole would cost tp times the memory.
BufferId column_parallel_grad(Builder& b, Weight& w, const Operand& dy, const Operand& whole, const Operand& own) {
  const Shapes& s = b.shape;
  const Operand x = whole.x >= 0 ? whole : gathered(b, own, Layout8::transposed);
  const BufferId partial = b.activation("dxn", s.rows * s.hidden);
  layer_linear_dx(b, dy, w, partial);
  const BufferId dx = reduce_partial(b, partial);
  layer_linear_dw(b, dy, x, w);
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
  if (b.shape.sp) l.whole1 = l.whole2 = {};
  return l;
}

void layer_recompute(Builder& b, LayerWeights& w, LayerState& l) {
  if (l.xn1.x >= 0) return;  // everything was kept
  b.phase = Phase::recompute;
  Residual r{l.sum1, -1, true};
  forward_to_activation(b, w, l, r, true);  // no backward reads the down projection's output
  b.phase = Phase::backward;
}

void layer_backward(Builder& b, LayerWeights& w, LayerState& l, BufferId gradient) {
  const Shapes& s = b.shape;
  const auto incoming = [&] { return operand(b, gather_rows(b, gradient), s.hidden, DType::fp8_e5m2, Layout8::both); };

  Operand g = incoming();
  layer_linear_dw(b, g, l.act, w.down);
  const BufferId dact = b.activation("dact", s.rows * s.ffn);
  layer_linear_dx(b, g, w.down, dact);
  const Operand dgate_up = s.fp8 ? quantized_result(b, "dgate_up", s.rows, 2 * s.ffn, DType::fp8_e5m2) : Operand{l.gate_up, -1, -1};
  b.emit(SwiGluGrad{s.rows, s.ffn, s.dtype, s.fp8}, {b.all(l.gate_up), b.all(dact)},
         {b.all(dgate_up.x), b.all_if(s.fp8, dgate_up.transposed), b.all_if(s.fp8, dgate_up.factor)});
  const BufferId dxn2 = column_parallel_grad(b, w.gate_up, dgate_up, l.whole2, l.xn2);
  norm_grad(b, l.sum2, l.rstd2, w.norm2, dxn2, gradient);

  g = incoming();
  layer_linear_dw(b, g, operand(b, l.out, s.attn, DType::fp8_e4m3, Layout8::transposed), w.o);
  const BufferId dout = b.activation("dattn", s.rows * s.attn);
  layer_linear_dx(b, g, w.o, dout);
  const BufferId dqkv = b.activation("dqkv", s.rows * s.qkv);
  const BufferId scratch = b.buffer("attn_delta", s.rows * s.heads, DType::fp32, Category::buffers);
  const BufferId workspace =
      s.library_workspace > 0 ? b.buffer("attn_workspace", s.library_workspace / 4, DType::fp32, Category::buffers) : -1;
  const Ref documents = b.all_if(s.documents, starts(b));
  b.emit(AttentionGrad{s.micro_batch, s.seq, s.heads, s.kv_heads, s.head_dim, true, s.dtype, s.documents, s.library_workspace},
         {b.all(l.qkv), b.all(l.out), b.all(l.lse), b.all(dout), documents},
         {b.all(dqkv), b.all(scratch), b.all_if(s.library_workspace > 0, workspace)});
  b.emit(Rope{s.rows, s.seq, s.heads, s.kv_heads, s.head_dim, true, s.dtype, s.documents},
         {b.all(b.program.rope_table), documents}, {b.all(dqkv)});
  const Operand dy = operand(b, dqkv, s.qkv, DType::fp8_e5m2, Layout8::both);
  const BufferId dxn1 = column_parallel_grad(b, w.qkv, dy, l.whole1, l.xn1);
  norm_grad(b, l.sum1, l.rstd1, w.norm1, dxn1, gradient);
}

}  // namespace llmplan::lowering
