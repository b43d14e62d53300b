#include "executor/cuda/cudnn_attention_graph.h"

#include <cmath>
#include <limits>

namespace llmplan::cuda {
namespace {

// Shapes of an attention's tensors, in the order batch, head, token, dimension.
struct Shapes {
  std::int64_t batch, seq, heads, kv_heads, head_dim;
  cudnnDataType_t type;

  template <class Op>
  explicit Shapes(const Op& a)
      : batch(a.batch), seq(a.seq), heads(a.heads), kv_heads(a.kv_heads), head_dim(a.head_dim),
        type(a.dtype == DType::fp16 ? CUDNN_DATA_HALF : CUDNN_DATA_BFLOAT16) {}

  Dims queries() const { return {batch, heads, seq, head_dim}; }
  Dims keys() const { return {batch, kv_heads, seq, head_dim}; }
  Dims keys_transposed() const { return {batch, kv_heads, head_dim, seq}; }
  Dims scores() const { return {batch, heads, seq, seq}; }
  Dims rows() const { return {batch, heads, seq, 1}; }
  Dims scores_transposed() const { return scores(); }  // as many rows as columns

  std::int64_t packed_row() const { return (heads + 2 * kv_heads) * head_dim; }
  Dims packed() const { return {seq * packed_row(), head_dim, packed_row(), 1}; }             // q, k or v in qkv
  Dims packed_transposed() const { return {seq * packed_row(), head_dim, 1, packed_row()}; }  // kᵀ, vᵀ
  Dims by_token() const { return {seq * heads * head_dim, head_dim, heads * head_dim, 1}; }   // out, dout
  Dims by_head() const { return {heads * seq * head_dim, seq * head_dim, head_dim, 1}; }
  Dims score_strides() const { return {heads * seq * seq, seq * seq, seq, 1}; }
  Dims score_strides_transposed() const { return {heads * seq * seq, seq * seq, 1, seq}; }
  Dims row_strides() const { return {heads * seq, seq, 1, 1}; }
};

// What both passes are made of.
class Parts {
 public:
  Parts(CudnnGraph& graph, const Shapes& shapes)
      : g(graph), s(shapes), scale_(g.number(1.0f / std::sqrt(static_cast<float>(s.head_dim)))) {}

  Tensor scores() { return g.passing(CUDNN_DATA_FLOAT, s.scores(), s.score_strides()); }
  Tensor rows() { return g.passing(CUDNN_DATA_FLOAT, s.rows(), s.row_strides()); }
  Tensor scaled(Tensor x) { return g.pointwise(CUDNN_POINTWISE_MUL, x, scores(), scale_); }
  // Scores of keys behind the query become the smallest number, which the softmax makes 0.
  Tensor causal(Tensor x) {
    const auto whole = [&](cudnnDataType_t t) { return g.passing(t, s.scores(), s.score_strides()); };
    const Tensor query = g.index(2, x, whole(CUDNN_DATA_INT32)), key = g.index(3, x, whole(CUDNN_DATA_INT32));
    const Tensor seen = g.at_least(query, key, whole(CUDNN_DATA_BOOLEAN));
    return g.pointwise(CUDNN_POINTWISE_BINARY_SELECT, x, scores(), g.number(std::numeric_limits<float>::lowest()), seen);
  }

 private:
  CudnnGraph& g;
  const Shapes& s;
  Tensor scale_;
};

}  // namespace

AttentionGraph attention_graph(const CudnnApi& api, const Attention& op) {
  AttentionGraph a(api);
  CudnnGraph& g = a.graph;
  const Shapes s(op);
  a.q = g.stored(s.type, s.queries(), s.packed());
  a.k = g.stored(s.type, s.keys_transposed(), s.packed_transposed());
  a.v = g.stored(s.type, s.keys(), s.packed());
  a.out = g.stored(s.type, s.queries(), s.by_token());
  a.lse = g.stored(CUDNN_DATA_FLOAT, s.rows(), s.row_strides());

  Parts p(g, s);
  const Tensor x = p.causal(p.scaled(g.matmul(a.q, a.k, p.scores())));
  // p = exp(x − max) / Σ exp(x − max), lse = max + log Σ
  const Tensor max = g.reduce(CUDNN_REDUCE_TENSOR_MAX, x, p.rows());
  const Tensor e = g.pointwise(CUDNN_POINTWISE_EXP, g.pointwise(CUDNN_POINTWISE_SUB, x, p.scores(), max), p.scores());
  const Tensor sum = g.reduce(CUDNN_REDUCE_TENSOR_ADD, e, p.rows());
  g.pointwise(CUDNN_POINTWISE_ADD, max, a.lse, g.pointwise(CUDNN_POINTWISE_LOG, sum, p.rows()));
  const Tensor probability = g.pointwise(CUDNN_POINTWISE_DIV, e, g.passing(s.type, s.scores(), s.score_strides()), sum);
  g.matmul(probability, a.v, a.out);
  return a;
}

AttentionGradGraph attention_grad_graph(const CudnnApi& api, const AttentionGrad& op, bool same_bits) {
  AttentionGradGraph a(api);
  CudnnGraph& g = a.graph;
  const Shapes s(op);
  a.q = g.stored(s.type, s.queries(), s.packed());
  a.k = g.stored(s.type, s.keys_transposed(), s.packed_transposed());
  a.v = g.stored(s.type, s.keys_transposed(), s.packed_transposed());
  a.out = g.stored(s.type, s.queries(), s.by_token());
  a.dout = g.stored(s.type, s.queries(), s.by_token());
  a.lse = g.stored(CUDNN_DATA_FLOAT, s.rows(), s.row_strides());
  a.dq = g.stored(s.type, s.queries(), s.packed());
  a.dk = g.stored(s.type, s.keys(), s.packed());
  a.dv = g.stored(s.type, s.keys(), s.packed());
  a.delta = g.stored(CUDNN_DATA_FLOAT, s.rows(), s.row_strides());

  Parts p(g, s);
  // delta = Σ_d dout·out; the factor of dropout that cuDNN looks for is 1
  const Tensor both = g.pointwise(CUDNN_POINTWISE_MUL, a.dout, g.passing(CUDNN_DATA_FLOAT, s.queries(), s.by_head()), a.out);
  g.pointwise(CUDNN_POINTWISE_MUL, g.reduce(CUDNN_REDUCE_TENSOR_ADD, both, p.rows()), a.delta, g.number(1));

  // p = exp(scale·q·kᵀ − lse)
  const Tensor x = p.scaled(g.matmul(a.q, a.k, p.scores()));
  const Tensor masked = p.causal(g.pointwise(CUDNN_POINTWISE_SUB, x, p.scores(), a.lse));
  const Tensor probability = g.pointwise(CUDNN_POINTWISE_EXP, masked, p.scores());

  // A gradient of keys or values: rowsᵀ·other, summed over the query heads that share a key head.
  const auto over_queries = [&](Tensor rows, Tensor other, Tensor result) {
    const Tensor turned = g.reshape(rows, g.passing(s.type, s.scores_transposed(), s.score_strides_transposed()));
    if (s.heads == s.kv_heads) return void(g.matmul(turned, other, result));
    const Tensor of_heads = g.matmul(turned, other, g.passing(s.type, s.queries(), s.by_head()));
    g.reduce(CUDNN_REDUCE_TENSOR_ADD, of_heads, result);
  };
  over_queries(probability, a.dout, a.dv);

  // ds = scale·p·(dout·vᵀ − delta)
  const Tensor dp = g.matmul(a.dout, a.v, p.scores());
  const Tensor centred = g.pointwise(CUDNN_POINTWISE_SUB, dp, p.scores(), a.delta);
  const Tensor ds = p.scaled(g.pointwise(CUDNN_POINTWISE_MUL, centred, p.scores(), probability));
  over_queries(ds, a.q, a.dk);

  const Tensor k = g.reshape(a.k, g.passing(CUDNN_DATA_FLOAT, s.keys(), s.packed()));
  if (same_bits) {
    g.matmul(ds, k, a.dq);
  } else {
    a.dq_sum = g.matmul(ds, k, g.stored(CUDNN_DATA_FLOAT, s.queries(), s.by_head()));
    g.pointwise(CUDNN_POINTWISE_IDENTITY, a.dq_sum, a.dq);
  }
  return a;
}

CudnnWish same_bits_wish(const CudnnApi& api, const CudnnTarget& target) {
  if (target.major != 10 || api.version() < 91800) return {};
  if (api.version() < 92300) return {5, {{CUDNN_KNOB_TYPE_KERNEL_CFG, 31}, {CUDNN_KNOB_TYPE_STAGES, 2}}};
  return {5, {{CUDNN_KNOB_TYPE_TILE_M, 3}, {CUDNN_KNOB_TYPE_TILE_N, 2}, {CUDNN_KNOB_TYPE_KERNEL_CFG, 2}, {CUDNN_KNOB_TYPE_STREAM_K, 0},
              {CUDNN_KNOB_TYPE_TILE_CGA_M, 0}, {CUDNN_KNOB_TYPE_STAGES, 2}}};
}

}  // namespace llmplan::cuda
