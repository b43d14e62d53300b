// The ops of llmplan's own program, as lower() emits them: one list for the closed form to sum over. A
// test holds it equal to the lowered program's ops. `emit` is called with each op; nothing is allocated.
#pragma once

#include <algorithm>
#include <cstdint>

#include "costmodel/cluster.h"
#include "costmodel/estimate.h"

namespace llmplan {

// Sizes as one rank sees them: what tp divides is divided already.
struct Shapes {
  std::int64_t micro_batch, seq;
  std::int64_t rows;        // tokens of a micro-batch
  std::int64_t split_rows;  // rows of the residual stream: rows / tp under sp, else rows
  std::int64_t hidden, heads, kv_heads, head_dim, ffn;
  std::int64_t attn, qkv;   // columns: heads·head_dim, (heads + 2·kv_heads)·head_dim
  std::int64_t vocab, vocab_total;  // ceil(V/tp), V
  std::int64_t tp, dp, shards;      // shards: ZeRO-1 slices of the optimizer state
  std::int64_t head_rows;           // tokens of one chunk of the head
  bool sp, tied;
  DType dtype;              // of weights and activations; bf16 where linears are fp8
  bool fp8;                 // the layers' linears multiply in 8 bits; head and embedding do not
  bool lean;                // no fp32 master, moments as wide as the weights, stochastic rounding
  bool documents;           // attention stays within documents
  double eps;
  std::int64_t divisor;     // tokens of the global batch
  std::int64_t scale_window;  // of the loss scale
  std::int64_t seed;        // of stochastic rounding
  std::int64_t state_bytes() const {  // of the optimizer, per element
    return lean ? 2 * size_of(dtype) : dtype == DType::fp32 ? 8 : 12;
  }
  bool scaled() const { return dtype == DType::fp16; }  // small gradients would be 0 in its 5 bits of exponent
};

// Logits exist for about 32 MiB of tokens at once, but not for fewer than the rows that hide the traffic
// of the head's fp32 gradient (8 bytes per weight and chunk) behind the chunk's three GEMMs (6·rows FLOPs
// per weight). On two AVX-512 cores, 32,000 x 512: 147, 173, 194, 193 GFLOP/s per core with 128, 256, 512,
// 1024 rows; a GPU does about ten times as many FLOPs per byte. Whole GEMM tiles of 16 rows.
inline std::int64_t head_chunk_rows(std::int64_t rows, std::int64_t vocab, DType dtype, bool cpu) {
  const std::int64_t most = std::max<std::int64_t>(cpu ? 512 : 2048, (32 << 20) / (vocab * size_of(dtype)));
  const std::int64_t chunks = (rows + most - 1) / most;
  const std::int64_t even = (rows + chunks - 1) / chunks;
  return std::min(rows, (even + 15) / 16 * 16);
}

inline Shapes shapes_of(const ModelConfig& m, const Cluster& c, const Workload& w, const Strategy& st) {
  Shapes s{};
  s.micro_batch = st.micro_batch;
  s.seq = sequence_length(m, w);
  s.rows = s.micro_batch * s.seq;
  s.sp = st.sp && st.tp > 1;
  s.split_rows = s.sp ? s.rows / st.tp : s.rows;
  s.hidden = m.hidden_size;
  s.heads = m.num_attention_heads / st.tp;
  s.kv_heads = std::max<std::int64_t>(1, m.num_key_value_heads / st.tp);
  s.head_dim = m.head_dim;
  s.ffn = m.intermediate_size / st.tp;
  s.attn = s.heads * s.head_dim;
  s.qkv = (s.heads + 2 * s.kv_heads) * s.head_dim;
  s.vocab = (m.vocab_size + st.tp - 1) / st.tp;
  s.vocab_total = m.vocab_size;
  s.tp = st.tp;
  s.dp = st.dp;
  s.shards = st.zero >= 1 ? st.dp : 1;
  s.fp8 = is_fp8(w.precision);
  s.dtype = s.fp8 ? DType::bf16 : w.precision;
  s.lean = w.optimizer.kind == OptimizerKind::adamw_lean;
  s.documents = w.documents;
  s.seed = s.lean ? static_cast<std::int64_t>(w.seed) : 0;
  s.head_rows = head_chunk_rows(s.rows, s.vocab, s.dtype, c.device.cpu);
  s.tied = m.tie_word_embeddings;
  s.eps = m.rms_norm_eps;
  s.divisor = w.global_batch * s.seq;
  s.scale_window = w.optimizer.loss_scale_window;
  return s;
}

// Which layers a stage holds, and where it stands.
struct StagePlace {
  std::int64_t index = 0, count = 1, layers = 0;
  bool first() const { return index == 0; }
  bool last() const { return index + 1 == count; }
};

namespace block {

template <class F>
void linear(const Shapes& s, std::int64_t rows, std::int64_t out, std::int64_t in, F&& emit) {
  emit(Gemm{rows, out, in, false, true, false, s.dtype, s.dtype});
}
template <class F>
void linear_dx(const Shapes& s, std::int64_t rows, std::int64_t out, std::int64_t in, F&& emit) {
  emit(Gemm{rows, in, out, false, false, false, s.dtype, s.dtype});
}
template <class F>
void linear_dw(const Shapes& s, std::int64_t rows, std::int64_t out, std::int64_t in, bool accumulate, F&& emit) {
  emit(Gemm{out, in, rows, true, false, accumulate, s.dtype, DType::fp32});
}
// The same three in fp8, of operands that are quantised; the weight is, anew each time, one way or the other.
template <class F>
void quantize_weight(const Shapes& s, std::int64_t out, std::int64_t in, bool transposed, F&& emit) {
  emit(Quantize{out, in, !transposed, transposed, s.dtype, DType::fp8_e4m3});
}
template <class F>
void layer_linear(const Shapes& s, std::int64_t rows, std::int64_t out, std::int64_t in, F&& emit) {
  if (!s.fp8) return linear(s, rows, out, in, emit);
  quantize_weight(s, out, in, false, emit);
  emit(Gemm{rows, out, in, false, true, false, DType::fp8_e4m3, s.dtype});
}
template <class F>
void layer_linear_dx(const Shapes& s, std::int64_t rows, std::int64_t out, std::int64_t in, F&& emit) {
  if (!s.fp8) return linear_dx(s, rows, out, in, emit);
  quantize_weight(s, out, in, true, emit);
  emit(Gemm{rows, in, out, false, true, false, DType::fp8_e5m2, s.dtype});
}
template <class F>
void layer_linear_dw(const Shapes& s, std::int64_t rows, std::int64_t out, std::int64_t in, bool accumulate, F&& emit) {
  if (!s.fp8) return linear_dw(s, rows, out, in, accumulate, emit);
  emit(Gemm{out, in, rows, false, true, accumulate, DType::fp8_e5m2, DType::fp32});
}
inline Bytes activation(const Shapes& s, std::int64_t rows) { return {rows * s.hidden * size_of(s.dtype)}; }

template <class F>
void gather_rows(const Shapes& s, F&& emit) {
  if (s.sp) emit(Collective{Collective::Kind::all_gather, Axis::tp, activation(s, s.rows), s.dtype});
}
template <class F>
void reduce_partial(const Shapes& s, F&& emit) {
  if (s.tp == 1) return;
  emit(Collective{s.sp ? Collective::Kind::reduce_scatter : Collective::Kind::all_reduce, Axis::tp,
                  activation(s, s.rows), s.dtype});
}

// Norm to MLP activation; `residual` is false for a norm whose input is already summed.
template <class F>
void forward_to_activation(const Shapes& s, bool residual, F&& emit) {
  emit(RmsNorm{s.split_rows, s.hidden, residual, s.eps, s.dtype, s.fp8});
  gather_rows(s, emit);
  layer_linear(s, s.rows, s.qkv, s.hidden, emit);
  emit(Rope{s.rows, s.seq, s.heads, s.kv_heads, s.head_dim, false, s.dtype, s.documents});
  emit(Attention{s.micro_batch, s.seq, s.heads, s.kv_heads, s.head_dim, true, s.dtype, s.documents});
  if (s.fp8) emit(Quantize{s.rows, s.attn, true, false, s.dtype, DType::fp8_e4m3});
  layer_linear(s, s.rows, s.hidden, s.attn, emit);
  reduce_partial(s, emit);
  emit(RmsNorm{s.split_rows, s.hidden, true, s.eps, s.dtype, s.fp8});
  gather_rows(s, emit);
  layer_linear(s, s.rows, 2 * s.ffn, s.hidden, emit);
  emit(SwiGlu{s.rows, s.ffn, s.dtype, s.fp8});
}

template <class F>
void layer_forward(const Shapes& s, bool first_of_stage, F&& emit) {
  forward_to_activation(s, !first_of_stage, emit);
  layer_linear(s, s.rows, s.hidden, s.ffn, emit);
  reduce_partial(s, emit);
}

template <class F>
void layer_recompute(const Shapes& s, F&& emit) { forward_to_activation(s, false, emit); }

// `recomputed`: the gathered inputs of the column-parallel linears are still there.
template <class F>
void layer_backward(const Shapes& s, bool accumulate, bool recomputed, F&& emit) {
  const auto column_parallel_grad = [&](std::int64_t out) {
    if (!recomputed) gather_rows(s, emit);
    layer_linear_dx(s, s.rows, out, s.hidden, emit);
    reduce_partial(s, emit);
    layer_linear_dw(s, s.rows, out, s.hidden, accumulate, emit);
    emit(RmsNormGrad{s.split_rows, s.hidden, true, accumulate, s.dtype});
  };
  const auto quantize_gradient = [&](std::int64_t columns) {
    if (s.fp8) emit(Quantize{s.rows, columns, true, true, s.dtype, DType::fp8_e5m2});
  };
  gather_rows(s, emit);
  quantize_gradient(s.hidden);
  layer_linear_dw(s, s.rows, s.hidden, s.ffn, accumulate, emit);
  layer_linear_dx(s, s.rows, s.hidden, s.ffn, emit);
  emit(SwiGluGrad{s.rows, s.ffn, s.dtype, s.fp8});
  column_parallel_grad(2 * s.ffn);
  gather_rows(s, emit);
  quantize_gradient(s.hidden);
  if (s.fp8) emit(Quantize{s.rows, s.attn, false, true, s.dtype, DType::fp8_e4m3});
  layer_linear_dw(s, s.rows, s.hidden, s.attn, accumulate, emit);
  layer_linear_dx(s, s.rows, s.hidden, s.attn, emit);
  emit(AttentionGrad{s.micro_batch, s.seq, s.heads, s.kv_heads, s.head_dim, true, s.dtype, s.documents});
  emit(Rope{s.rows, s.seq, s.heads, s.kv_heads, s.head_dim, true, s.dtype, s.documents});
  quantize_gradient(s.qkv);
  column_parallel_grad(s.qkv);
}

// What a stage does in a forward pass beside its layers; sends and receives excepted. The head's own
// backward is part of it. `emit` takes an op and how many times it occurs.
template <class F>
void stage_forward(const Shapes& s, const StagePlace& p, bool accumulate, F&& emit) {
  const auto one = [&](const Op& op) { emit(op, 1); };
  if (p.first() || p.last() || s.documents) one(Load{s.rows, s.documents});
  if (p.first()) {
    one(Embedding{s.rows, s.hidden, s.vocab, s.dtype});
    reduce_partial(s, one);
  }
  if (!p.last()) {
    one(Add{s.split_rows * s.hidden, s.dtype});
    return;
  }
  one(RmsNorm{s.split_rows, s.hidden, true, s.eps, s.dtype});
  gather_rows(s, one);
  // The first chunk of the step sets the sums that all others add to; the last one may be shorter.
  const auto chunks = [&](std::int64_t rows, bool add, std::int64_t times) {
    const auto each = [&](const Op& op) { emit(op, times); };
    linear(s, rows, s.vocab, s.hidden, each);
    each(CrossEntropyStats{rows, s.vocab, s.vocab_total, s.dtype});
    if (s.tp > 1) each(Collective{Collective::Kind::all_gather, Axis::tp, {s.tp * rows * 3 * 4}, DType::fp32});
    each(CrossEntropyGrad{rows, s.vocab, s.vocab_total, s.tp, s.divisor, true, add, s.dtype, s.scaled()});
    linear_dw(s, rows, s.vocab, s.hidden, add, each);
    linear_dx(s, rows, s.vocab, s.hidden, each);
  };
  const std::int64_t equal = s.rows / s.head_rows, rest = s.rows % s.head_rows;
  if (!accumulate) chunks(s.head_rows, false, 1);
  if (const std::int64_t more = equal - (accumulate ? 0 : 1); more > 0) chunks(s.head_rows, true, more);
  if (rest > 0) chunks(rest, true, 1);
  reduce_partial(s, one);
}

template <class F>
void stage_backward(const Shapes& s, const StagePlace& p, bool accumulate, F&& emit) {
  if (p.last()) emit(RmsNormGrad{s.split_rows, s.hidden, false, accumulate, s.dtype});
  if (!p.first()) return;
  gather_rows(s, emit);
  // A tied table on a single stage already holds the head's gradient.
  emit(EmbeddingGrad{s.rows, s.hidden, s.vocab, accumulate || (s.tied && p.last()), s.dtype});
}

// Elements of a stage's flat buffers on one rank, and of them the norms, which tp replicates.
struct Elements { std::int64_t all = 0, norms = 0; };
inline Elements stage_elements(const Shapes& s, const StagePlace& p) {
  const std::int64_t table = s.vocab * s.hidden;
  Elements e;
  e.norms = (2 * p.layers + (p.last() ? 1 : 0)) * s.hidden;
  e.all = e.norms + p.layers * s.hidden * (s.qkv + s.attn + 3 * s.ffn) + (p.first() ? table : 0) +
          (p.last() && !(s.tied && p.first()) ? table : 0);
  if (s.shards > 1) {  // slices are equal and start on cache lines
    const std::int64_t unit = s.shards * 64;
    e.all = (e.all + unit - 1) / unit * unit;
  }
  return e;
}

// The end of a step, in three parts because the world's sum makes all stages wait for each other.
template <class F>
void before_world_sum(const Shapes& s, const StagePlace& p, F&& emit) {
  const Elements e = stage_elements(s, p);
  if (s.sp) emit(Collective{Collective::Kind::all_reduce, Axis::tp, {e.norms * 4}, DType::fp32});
  if (s.dp > 1)
    emit(Collective{s.shards > 1 ? Collective::Kind::reduce_scatter : Collective::Kind::all_reduce, Axis::dp,
                    {e.all * 4}, DType::fp32});
  emit(GradStats{e.all / s.shards, s.shards});
}
inline Collective embedding_sum(const Shapes& s) {  // first and last stage, before the above
  return {Collective::Kind::all_reduce, Axis::embedding, {s.vocab * s.hidden * 4}, DType::fp32};
}
inline Collective world_sum() { return {Collective::Kind::all_reduce, Axis::world, {3 * 8}, DType::fp64}; }
template <class F>
void after_world_sum(const Shapes& s, const StagePlace& p, F&& emit) {
  const Elements e = stage_elements(s, p);
  if (s.scaled()) emit(LossScale{s.scale_window});
  emit(AdamW{e.all / s.shards, s.shards, s.divisor, s.dtype, s.scaled(), s.lean, s.seed});
  if (s.shards > 1)
    emit(Collective{Collective::Kind::all_gather, Axis::dp, {e.all * size_of(s.dtype)}, s.dtype});
}

}  // namespace block
}  // namespace llmplan
