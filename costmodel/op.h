// What to compute: one struct per operation, shapes only, no pointers. Equality makes an Op the key of
// a calibration table. Every interpreter (flops, time, kernels) visits the variant without a catch-all,
// so an op that one of them forgot does not compile.
//
// Each comment gives the operands in the order in which an Instr lists them. All matrices are row
// major. Shapes are those of one rank: `vocab`, `heads`, `ffn` are already divided by tp, and `rows` by
// tp where sequence parallelism splits the tokens.
#pragma once

#include <cstdint>
#include <string_view>
#include <variant>

#include "costmodel/units.h"

namespace llmplan {

enum class DType : std::uint8_t { fp32, bf16, fp16, fp8_e4m3, fp8_e5m2, int32, fp64 };
constexpr std::int64_t size_of(DType t) {
  switch (t) {
    case DType::fp32: case DType::int32: return 4;
    case DType::bf16: case DType::fp16: return 2;
    case DType::fp8_e4m3: case DType::fp8_e5m2: return 1;
    case DType::fp64: return 8;
  }
  return 0;
}
std::string_view name_of(DType);
constexpr bool is_fp8(DType t) { return t == DType::fp8_e4m3 || t == DType::fp8_e5m2; }

// Which group of ranks a collective runs over. `embedding` is the first and the last pipeline stage of
// one (tp, dp) position, `world` is every rank.
enum class Axis : std::uint8_t { tp, cp, ep, dp, embedding, world };
std::string_view name_of(Axis);

// Copies one micro-batch of input from the host's loader.
//   writes: ids[rows] int32, targets[rows] int32 (negative: no loss here), starts[rows] int32 if documents:
//   the row of its sequence at which the document of a token begins
struct Load {
  std::int64_t rows; bool documents = false;
  bool operator==(const Load&) const = default;
};
inline constexpr std::int32_t kDocumentEnd = INT32_MIN;  // a target: no loss here, and the document ends

// c[m,n] (+)= a · b.   a is [m,k], or [k,m] if a_transposed; b is [k,n], or [n,k] if b_transposed.
//   reads: a, b, and in fp8 the factors of both   writes: c
// In fp8 a·b is multiplied by both factors (see Quantize), b is e4m3 whatever a is, and both operands lie with k
// contiguous: a is not transposed and b is, as Hopper's matrix units want them.
// Forward y = x·Wᵀ has b_transposed; the input's gradient dx = dy·W neither; the weight's
// gradient dW = dyᵀ·x has a_transposed.
struct Gemm {
  std::int64_t m, n, k;
  bool a_transposed, b_transposed;
  bool accumulate;      // c += instead of c =
  DType in, out;
  bool operator==(const Gemm&) const = default;
};

// x[t,:] = table[ids[t] - first,:], or zeros for an id that another tp rank holds
// (first = tp_rank × vocab).
//   reads: ids[rows], table[vocab,hidden]   writes: x[rows,hidden]
struct Embedding {
  std::int64_t rows, hidden, vocab; DType dtype;
  bool operator==(const Embedding&) const = default;
};
//   reads: ids[rows], dx[rows,hidden]   writes: dtable[vocab,hidden] fp32, summed in row order
struct EmbeddingGrad {
  std::int64_t rows, hidden, vocab; bool accumulate; DType dtype;
  bool operator==(const EmbeddingGrad&) const = default;
};

// Per-tensor current scaling (Micikevicius et al. 2022, §3): q = x·2^e, rounded to `to`, with the largest e for
// which max|x|·2^e is a number of that type; factor[0] = 2^-e gives x back, and is NaN where x is not finite. A
// power of two, so that scaling itself never rounds.
//   reads: x[rows,columns] of `from`
//   writes: q[rows,columns] if straight, qᵀ[columns,rows] if transposed, factor[1 + rows] fp32: the factor, then
//   scratch (largest magnitudes of parts)
// RmsNorm, SwiGlu and SwiGluGrad do the same with their own result where they have `quantize`: it is written
// quantised, both ways, and never in 16 bits.
struct Quantize {
  std::int64_t rows, columns; bool straight, transposed; DType from, to;
  bool operator==(const Quantize&) const = default;
};

// sum = x + delta (only with `residual`); rstd = 1/sqrt(mean(sum²) + eps); y = sum · rstd · weight.
//   reads: x[rows,hidden], weight[hidden], delta[rows,hidden] if residual
//   writes: y[rows,hidden], rstd[rows] fp32, sum[rows,hidden] if residual (may be x's own bytes);
//   if quantize, y is e4m3, and last come yᵀ[hidden,rows] and factor[1 + rows]
struct RmsNorm {
  std::int64_t rows, hidden; bool residual; double eps; DType dtype;
  bool quantize = false;
  bool operator==(const RmsNorm&) const = default;
};
// dx = (residual ? dresidual : 0) + rstd·(w·dy − x·rstd²·mean(w·dy·x)); dweight (+)= Σ_rows dy·x·rstd.
// The row sum runs over blocks of norm_grad_block rows, then over the blocks in order, so that the
// result does not depend on threads.
//   reads: x[rows,hidden], rstd[rows], weight[hidden], dy[rows,hidden], dresidual[rows,hidden] if residual
//   writes: dx[rows,hidden] (may be dresidual's own bytes), dweight[hidden] fp32,
//           partial[norm_grad_blocks(rows),hidden] fp32 scratch
struct RmsNormGrad {
  std::int64_t rows, hidden; bool residual, accumulate; DType dtype;
  bool operator==(const RmsNormGrad&) const = default;
};
constexpr std::int64_t norm_grad_blocks(std::int64_t rows) {
  return rows < 16 * 32 ? (rows + 31) / 32 : 16;
}

// Rotates the q and k heads of packed qkv[rows,(heads+2·kv_heads)·head_dim] in place, HF's
// rotate_half convention; position = row mod seq, counted from the document's start if `documents`. `backward`
// rotates by the negative angle.
//   reads: table[seq,head_dim] fp32: cos of head_dim/2 angles, then sin; starts[rows] if documents   writes: qkv
struct Rope {
  std::int64_t rows, seq, heads, kv_heads, head_dim; bool backward; DType dtype;
  bool documents = false;
  bool operator==(const Rope&) const = default;
};

// Softmax(q·kᵀ/sqrt(head_dim))·v per sequence of `seq` rows, grouped queries, from packed qkv. `documents`: a
// query sees no key before its document's start (only with `causal`).
//   reads: qkv[batch·seq,(heads+2·kv_heads)·head_dim], starts[batch·seq] if documents
//   writes: out[batch·seq,heads·head_dim], lse[batch,heads,seq] fp32
struct Attention {
  std::int64_t batch, seq, heads, kv_heads, head_dim; bool causal; DType dtype;
  bool documents = false;
  bool operator==(const Attention&) const = default;
};
//   reads: qkv, out, lse, dout[batch·seq,heads·head_dim], starts if documents
//   writes: dqkv (as qkv), delta[batch,heads,seq] fp32 scratch: Σ_d dout·out; if workspace > 0, scratch of as many
//   bytes that a library's kernels may use (see library_workspace in block.h)
struct AttentionGrad {
  std::int64_t batch, seq, heads, kv_heads, head_dim; bool causal; DType dtype;
  bool documents = false;
  std::int64_t workspace = 0;
  bool operator==(const AttentionGrad&) const = default;
};

// out = silu(gate)·up.   reads: gate_up[rows,2·ffn] (gate columns first)   writes: out[rows,ffn];
//   if quantize, out is e4m3, then outᵀ[ffn,rows] and factor[1 + rows]
struct SwiGlu {
  std::int64_t rows, ffn; DType dtype;
  bool quantize = false;
  bool operator==(const SwiGlu&) const = default;
};
//   reads: gate_up[rows,2·ffn], dout[rows,ffn]   writes: dgate_up[rows,2·ffn] (may be gate_up's own bytes);
//   if quantize, dgate_up is e5m2 (and has bytes of its own), then dgate_upᵀ[2·ffn,rows] and factor[1 + rows]
struct SwiGluGrad {
  std::int64_t rows, ffn; DType dtype;
  bool quantize = false;
  bool operator==(const SwiGluGrad&) const = default;
};

// out = a + b.   reads: a[elements], b[elements]   writes: out[elements] (may be a's or b's own bytes)
struct Add {
  std::int64_t elements; DType dtype;
  bool operator==(const Add&) const = default;
};

// Softmax statistics of a rank's share of the vocabulary: columns tp_rank·vocab … of `vocab_total`;
// columns past vocab_total are padding and count as −inf.
//   reads: logits[rows,vocab], targets[rows]   writes: stats[rows,3] fp32: max, Σexp(logit − max), target's
//   logit (0 on the ranks that do not hold it)
struct CrossEntropyStats {
  std::int64_t rows, vocab, vocab_total; DType dtype;
  bool operator==(const CrossEntropyStats&) const = default;
};
// loss_row = log Σexp − logit_target from the statistics of all `shards` ranks of the tp group; adds
// (Σ loss_row, number of rows with a target) to `loss`, or sets it if not `accumulate`. With `gradient`,
// dlogits = (softmax − onehot)/divisor replaces the logits (0 in rows without target and in padding);
// `scaled`: times the loss scale, so that gradients are too, down to the weights'.
//   reads: targets[rows], stats[shards,rows,3], scaling if scaled   writes: logits[rows,vocab], loss[2] fp64
struct CrossEntropyGrad {
  std::int64_t rows, vocab, vocab_total, shards;
  std::int64_t divisor;   // tokens of the global batch
  bool gradient, accumulate; DType dtype;
  bool scaled = false;
  bool operator==(const CrossEntropyGrad&) const = default;
};

// This rank's part of {Σ grad², Σ loss, Σ counted tokens}, each counted once in the world: parameters
// that tp ranks duplicate by tp_rank 0, parameters that dp ranks duplicate (shards == 1) by
// dp_rank 0, the last stage's copy of a tied embedding never, the loss by tp_rank 0.
// Of one bucket; `accumulate` adds its Σ grad² to that of the buckets before it.
//   reads: gradients[elements·shards] (a bucket; the rank's slice of it if shards > 1), loss[2] fp64 (last stage only, not if
//   accumulate)
//   writes: stats[3] fp64
struct GradStats {
  std::int64_t elements, shards;  // elements: this rank's, after sharding
  bool accumulate = false;
  bool operator==(const GradStats&) const = default;
};
// Dynamic loss scaling (Micikevicius et al. 2018; the rule of PyTorch's GradScaler), from the world's sums, so
// that every rank decides alike. A norm that is not finite: this step is skipped and the scale halves, not
// below 1. `window` steps in a row without one: it doubles. Σ grad² becomes that of the gradients without the scale.
//   writes: stats[3] fp64, scaling: a LossScaling
struct LossScale {
  std::int64_t window;
  bool operator==(const LossScale&) const = default;
};
struct LossScaling {
  double scale = 65536, good_in_a_row = 0;
  double taken = 0, skipped = 0;       // steps; taken is Adam's exponent
  double apply = 1;                    // 0: this step is skipped
  double inverse = 1;                  // 1 / the scale that this step's gradients have
  double correction1 = 1, correction2 = 1;  // 1 − beta^taken
};
inline constexpr std::int64_t kLossScaling = sizeof(LossScaling) / sizeof(double);

// Decoupled AdamW on elements [rank·elements, (rank+1)·elements) of a bucket (rank = the rank's
// place on the dp axis if shards > 1, else 0), with the clip factor
// min(1, clip/(norm + 1e-6)) from stats, and the loss divisor's correction divisor/counted tokens.
// Weight decay where the parameter table says so. `scaled`: gradients carry a loss scale, and a skipped step
// changes nothing.
//   reads: gradients (as GradStats), stats[3] fp64, scaling if scaled
//   writes: weights[elements·shards], m[elements], v[elements], master[elements] unless the weights are fp32 or
//   `stochastic`: then there is no master, weights, m and v are bf16, and each is rounded up or down at random, with
//   the probability that makes it right on average. The random bits are a function of seed, step, tensor and the
//   element's place in the whole tensor: the same on every rank and under every split.
struct AdamW {
  std::int64_t elements, shards, divisor; DType weights;
  bool scaled = false;
  bool stochastic = false;
  std::int64_t seed = 0;      // of stochastic rounding
  bool operator==(const AdamW&) const = default;
};

// all_reduce    in place.                       writes: x
// all_gather    reads: shard, writes: whole; or in place: writes: whole (slice of the own rank is input)
// reduce_scatter reads: whole, writes: shard;   or in place: writes: whole (slice of the own rank is the result)
// broadcast     in place, from the group's first rank.    writes: x
// all_to_all    reads: x, writes: y.
// `size` counts the whole: x for all_reduce, the gathered or unreduced buffer for the other two.
struct Collective {
  enum class Kind : std::uint8_t { all_reduce, all_gather, reduce_scatter, broadcast, all_to_all };
  Kind kind; Axis axis; Bytes size; DType dtype;
  bool operator==(const Collective&) const = default;
};
std::string_view name_of(Collective::Kind);

// Point to point between neighbouring pipeline stages, same (tp, dp) position.   reads: x / writes: x
struct Send { int stage; Bytes size; bool operator==(const Send&) const = default; };
struct Recv { int stage; Bytes size; bool operator==(const Recv&) const = default; };

using Op = std::variant<Load, Gemm, Quantize, Embedding, EmbeddingGrad, RmsNorm, RmsNormGrad, Rope, Attention,
                        AttentionGrad, SwiGlu, SwiGluGrad, Add, CrossEntropyStats, CrossEntropyGrad,
                        GradStats, LossScale, AdamW, Collective, Send, Recv>;

std::string_view kind_of(const Op&);   // "gemm", "attention_grad", "all_reduce", …: stable, used in reports
Flops flops(const Op&);                // multiply-adds count 2; causal attention counts what it must compute
Bytes bytes_moved(const Op&);          // compulsory traffic: every operand once
bool is_transfer(const Op&);           // Collective, Send, Recv: needs another rank

// What an op keeps busy: the matrix units, the memory, or a way to other ranks.
enum class OpClass : std::uint8_t { matrix, pointwise, collective, transfer };
std::string_view name_of(OpClass);
OpClass class_of(const Op&);           // matrix: products and attention; transfer: Send, Recv

}  // namespace llmplan
