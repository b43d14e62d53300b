// Attention as the graphs that cuDNN knows by their form. Those of its own frontend (cudnn-frontend 1.23) are what its
// engines look for: the products, the scale, the causal mask and the softmax, one operation each.
#pragma once

#include "costmodel/op.h"
#include "executor/cuda/cudnn_graph.h"

namespace llmplan::cuda {

// Operands, from packed qkv. Strides are those of op.h's buffers; k and v are told apart by their addresses.
struct AttentionGraph {
  CudnnGraph graph;
  Tensor q, k, v, out, lse;
  explicit AttentionGraph(const CudnnApi& api) : graph(api) {}
};
AttentionGraph attention_graph(const CudnnApi&, const Attention&);

struct AttentionGradGraph {
  CudnnGraph graph;
  Tensor q, k, v, out, lse, dout, dq, dk, dv, delta;
  Tensor dq_sum;  // [batch, heads, seq, head_dim] fp32, stored beside the plan's workspace; none if `same_bits`
  explicit AttentionGradGraph(const CudnnApi& api) : graph(api) {}
};
// dq is a sum over blocks of keys. cuDNN adds them up in fp32 in whatever order they come, or, with `same_bits`, in one
// order; for that it writes ds (seq × seq for every head) to its workspace, unless same_bits_wish knows better.
AttentionGradGraph attention_grad_graph(const CudnnApi&, const AttentionGrad&, bool same_bits);
// Which engine adds up dq in a fixed order without that memory: on sm_100 there is one, which the heuristic does not
// suggest; its number and knobs are those that cuDNN's frontend asks for. None elsewhere.
CudnnWish same_bits_wish(const CudnnApi&, const CudnnTarget&);

inline std::int64_t sum_bytes(const AttentionGrad& a) {  // of dq_sum: in whole steps of the arena's alignment
  return (a.batch * a.heads * a.seq * a.head_dim * 4 + 255) / 256 * 256;
}

}  // namespace llmplan::cuda
