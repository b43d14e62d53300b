// The ops of llmplan's own program, as lower() emits them: one list for the closed form to sum over. A
// test holds it equal to the lowered program's ops. `emit` is called with each op; nothing is allocated.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <limits>

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
  std::int64_t bucket;              // elements of gradients that are reduced together, at least
  std::int64_t head_rows;           // tokens of one chunk of the head
  bool sp, tied;
  DType dtype;              // of weights and activations; bf16 where linears are fp8
  bool fp8;                 // the layers' linears multiply in 8 bits; head and embedding do not
  bool lean;                // no fp32 master, moments as wide as the weights, stochastic rounding
  bool documents;           // attention stays within documents
  std::int64_t library_workspace;  // bytes that the gradient of attention has for a library's kernels
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

// On GPUs a library (cuDNN) may carry out attention's backward pass. It adds up dq in fp32, perhaps twice, and with
// grouped queries keeps dk and dv of every query head: 8 or 12 bytes per element of q, as cuDNN 9.19 and 9.26 say for
// sm_80, sm_90 and sm_100 (tests/cudnn), and a little. It gets no more than the MLP's activations leave, which are gone
// by then: so it never raises the peak, and where that is too little, llmplan's own kernels do the work.
inline std::int64_t library_workspace(const Shapes& s) {
  const std::int64_t e = size_of(s.dtype), queries = s.rows * s.attn;
  if (e != 2 || s.documents || (s.head_dim != 64 && s.head_dim != 96 && s.head_dim != 128)) return 0;
  const std::int64_t wanted = queries * (s.heads > s.kv_heads ? 12 : 8) + (64 << 10);
  // gate, up, act and their norm's output are gone; dout, dqkv and delta are there.
  const std::int64_t left = s.rows * (2 * s.ffn * e + s.ffn * (s.fp8 ? 1 : e) - (s.attn + s.qkv) * e - s.heads * 4) +
                            s.split_rows * s.hidden * e;
  return std::max<std::int64_t>(0, std::min(wanted, left)) / 256 * 256;
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
  s.bucket = st.dp > 1 ? st.least_bucket() : std::numeric_limits<std::int64_t>::max() / 4;  // nothing to reduce: one bucket
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
  s.library_workspace = c.device.cpu ? 0 : library_workspace(s);
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

// A norm's result for the linears behind it. In fp8 the norm quantises it itself, but under sp, where that is done to all
// ranks' rows together.
template <class F>
void gather_normed(const Shapes& s, bool straight, bool transposed, F&& emit) {
  gather_rows(s, emit);
  if (s.fp8 && s.sp) emit(Quantize{s.rows, s.hidden, straight, transposed, s.dtype, DType::fp8_e4m3});
}

// Norm to MLP activation; `residual` is false for a norm whose input is already summed.
template <class F>
void forward_to_activation(const Shapes& s, bool residual, bool recompute, F&& emit) {
  emit(RmsNorm{s.split_rows, s.hidden, residual, s.eps, s.dtype, s.fp8 && !s.sp});
  gather_normed(s, true, recompute, emit);
  layer_linear(s, s.rows, s.qkv, s.hidden, emit);
  emit(Rope{s.rows, s.seq, s.heads, s.kv_heads, s.head_dim, false, s.dtype, s.documents});
  emit(Attention{s.micro_batch, s.seq, s.heads, s.kv_heads, s.head_dim, true, s.dtype, s.documents});
  if (s.fp8) emit(Quantize{s.rows, s.attn, true, false, s.dtype, DType::fp8_e4m3});
  layer_linear(s, s.rows, s.hidden, s.attn, emit);
  reduce_partial(s, emit);
  emit(RmsNorm{s.split_rows, s.hidden, true, s.eps, s.dtype, s.fp8 && !s.sp});
  gather_normed(s, true, recompute, emit);
  layer_linear(s, s.rows, 2 * s.ffn, s.hidden, emit);
  emit(SwiGlu{s.rows, s.ffn, s.dtype, s.fp8});
}

template <class F>
void layer_forward(const Shapes& s, bool first_of_stage, F&& emit) {
  forward_to_activation(s, !first_of_stage, false, emit);
  layer_linear(s, s.rows, s.hidden, s.ffn, emit);
  reduce_partial(s, emit);
}

template <class F>
void layer_recompute(const Shapes& s, F&& emit) { forward_to_activation(s, false, true, emit); }

// `recomputed`: the gathered inputs of the column-parallel linears are still there.
template <class F>
void layer_backward(const Shapes& s, bool accumulate, bool recomputed, F&& emit) {
  const auto column_parallel_grad = [&](std::int64_t out) {
    if (!recomputed) gather_normed(s, false, true, emit);
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
  emit(AttentionGrad{s.micro_batch, s.seq, s.heads, s.kv_heads, s.head_dim, true, s.dtype, s.documents, s.library_workspace});
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

// The buckets in which a stage reduces its gradients. Flat buffers hold, from their end to their beginning, what becomes
// final first to last in the last backward pass: an untied head, the layers from the last to the first, the norms and, where
// a stage has it, the embedding or the copy of it that a tied head is. A bucket is whole pieces of that, from the end on, until
// it holds `s.bucket` elements; what is left is the last one. The table's gradient is final later than any layer's, so it waits
// with the last bucket, and so do all norms, which one sum over tp covers.
struct BucketRun {           // equal buckets that follow each other
  std::int64_t count = 0;
  std::int64_t elements = 0; // of each one, padding included: under ZeRO slices are equal and start on cache lines
  std::int64_t layers = 0;   // in each one
};
struct Buckets {
  std::array<BucketRun, 3> runs;  // as they become final: with the head, of layers alone, the last
  std::int64_t norms = 0;    // elements
  std::int64_t elements() const {
    std::int64_t n = 0;
    for (const BucketRun& r : runs) n += r.count * r.elements;
    return n;
  }
  std::int64_t last() const { return runs.back().elements; }
};
inline Buckets buckets_of(const Shapes& s, const StagePlace& p) {
  const std::int64_t table = s.vocab * s.hidden, layer = s.hidden * (s.qkv + s.attn + 3 * s.ffn);
  const std::int64_t head = p.last() && !s.tied ? table : 0;
  const bool holds_table = p.first() || (p.last() && s.tied);
  const auto layers_for = [&](std::int64_t elements) { return elements > 0 ? (elements - 1) / layer + 1 : 0; };
  const auto padded = [&](std::int64_t n) {
    const std::int64_t unit = s.shards > 1 ? s.shards * 64 : 1;
    return (n + unit - 1) / unit * unit;
  };
  Buckets b;
  b.norms = (2 * p.layers + (p.last() ? 1 : 0)) * s.hidden;
  std::int64_t left = p.layers, last = b.norms + (holds_table ? table : 0);
  const std::int64_t kept = holds_table ? 0 : 1;  // layers without which the last bucket would be norms alone
  if (head > 0) {
    const std::int64_t with_head = layers_for(s.bucket - head);
    if (with_head + kept <= left) {
      b.runs[0] = {1, padded(head + with_head * layer), with_head};
      left -= with_head;
    } else {
      last += head;
      b.runs[2] = {1, padded(last + left * layer), left};
      return b;
    }
  }
  const std::int64_t each = layers_for(s.bucket), count = std::max<std::int64_t>(0, (left - kept) / each);
  b.runs[1] = {count, padded(each * layer), each};
  left -= count * each;
  b.runs[2] = {1, padded(last + left * layer), left};
  return b;
}

// The end of a step. All stages wait for each other at the world's sum.
inline Collective norms_sum(const Buckets& b) { return {Collective::Kind::all_reduce, Axis::tp, {b.norms * 4}, DType::fp32}; }  // under sp
inline Collective embedding_sum(const Shapes& s) {  // first and last stage, before the last bucket
  return {Collective::Kind::all_reduce, Axis::embedding, {s.vocab * s.hidden * 4}, DType::fp32};
}
inline Collective bucket_sum(const Shapes& s, std::int64_t elements) {  // where dp > 1
  return {s.shards > 1 ? Collective::Kind::reduce_scatter : Collective::Kind::all_reduce, Axis::dp, {elements * 4}, DType::fp32};
}
inline GradStats bucket_stats(const Shapes& s, std::int64_t elements, bool accumulate) {
  return {elements / s.shards, s.shards, accumulate};
}
inline Collective world_sum() { return {Collective::Kind::all_reduce, Axis::world, {3 * 8}, DType::fp64}; }
inline AdamW bucket_update(const Shapes& s, std::int64_t elements) {
  return {elements / s.shards, s.shards, s.divisor, s.dtype, s.scaled(), s.lean, s.seed};
}
inline Collective bucket_gather(const Shapes& s, std::int64_t elements) {  // under ZeRO
  return {Collective::Kind::all_gather, Axis::dp, {elements * size_of(s.dtype)}, s.dtype};
}

}  // namespace block
}  // namespace llmplan
