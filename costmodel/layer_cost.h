// What one decoder layer costs in any runtime: seconds of computing, bytes on the wire, bytes kept. For
// architectures and strategies that llmplan does not lower; for those it does, block.h is exact.
#pragma once

#include "costmodel/cost.h"
#include "costmodel/runtime.h"

namespace llmplan {

// Sizes as one rank sees them. Doubles: everything below is a rate or a sum.
struct Dims {
  double micro_batch, seq;      // seq: this rank's share under cp
  double full_seq;
  double rows;                  // tokens of a micro-batch on this rank
  double split_rows;            // of the residual stream: rows / tp under sp
  double hidden, heads, kv_heads, qk_dim, v_dim;
  double q, kv, attn;           // columns of q, of k and v together, and of the attention's output
  double ffn, vocab;            // per rank
  double element;               // bytes of an activation
  double cast_bytes;            // moved per element that is cast to fp8
  double tp, cp, ep, dp, etp;
  bool sp, gated, unfused, mla;
  DType dtype;                  // of matrix products
  // Experts: rows that this rank's experts work on, and how many of them sit here.
  double expert_rows = 0, local_experts = 0, expert_ffn = 0, shared_ffn = 0, experts = 0, top_k = 0;
};
Dims dims_of(const ModelConfig&, const Workload&, const Strategy&, const Runtime&);

// One pass over one layer for one micro-batch.
struct PassCost {
  double gemm = 0, attention = 0, pointwise = 0, kernels = 0;
  double collectives = 0;       // calls
  double weight_gradients = 0;  // the part of gemm that no other stage waits for
  Cost comm;                    // tp, cp and ep, not yet hidden
  double compute() const { return gemm + attention + pointwise; }
};
struct LayerPasses { PassCost forward, backward, recompute; };

LayerPasses price_layer(const ModelConfig&, const Dims&, const Strategy&, const Runtime&, const Pricer&, bool moe);

// Bytes that a layer keeps per micro-batch for its backward pass.
double kept_bytes(const ModelConfig&, const Dims&, const Runtime&, Recompute, bool moe);

// Weights of one layer on one rank, experts apart (they are sharded over ep and replicated less).
struct LayerWeights { double dense = 0, experts = 0; };
LayerWeights layer_weights(const ModelConfig&, const Strategy&, bool moe);
// Of the embedding table and the head on one rank; vocabulary padded as the runtime does.
double table_weights(const ModelConfig&, const Strategy&, const Runtime&);

}  // namespace llmplan
