// The kernels of one instruction set. Every entry works on a range and knows no threads; run() in
// kernels.cpp divides ranges among threads. Ranges never change a result: each output element is
// computed by one call, by a chain of operations that depends on the op's shape only.
#pragma once

#include <cstdint>
#include <string_view>

#include "costmodel/op.h"

namespace llmplan::cpu {

struct AdamWScalars {
  float gradient_scale;       // clip factor · divisor correction
  float beta1, beta2, eps;
  float step;                 // lr / (1 − beta1^t)
  float rsqrt_correction;     // 1 / sqrt(1 − beta2^t)
  float keep;                 // 1 − lr·weight_decay, or 1
};

// What one call of the attention gradient computes: all of a (sequence, kv head), or the rows of dq, or
// the rows of dk and dv in a range.
struct AttentionRange {
  std::int64_t batch, kv_head;
  std::int64_t row_begin, row_end;  // of the sequence; multiples of attention_block, or the end
};

struct KernelTable {
  std::string_view name;

  // A matrix product, one pass of k (at most gemm_depth long) at a time. Packed, b takes
  // round_up(columns, gemm_panel)·depth floats, and a gemm_strip_floats for every gemm_rows rows, begun or whole.
  std::int64_t gemm_rows, gemm_panel, gemm_depth, gemm_strip_floats;
  // Blocks a[rows, depth] and b[depth, columns]; transposed, they lie as [depth, rows] and [columns, depth].
  void (*pack_a)(const float* a, std::int64_t lda, bool transposed, std::int64_t rows, std::int64_t depth, float* to);
  void (*pack_b)(const float* b, std::int64_t ldb, bool transposed, std::int64_t columns, std::int64_t depth, float* to);
  // c[rows, columns] = or += a·b, both packed.
  void (*multiply)(const float* a, bool a_transposed, std::int64_t rows, const float* b, std::int64_t columns,
                   std::int64_t depth, float* c, std::int64_t ldc, bool add);

  std::int64_t attention_block;
  std::int64_t (*attention_scratch)(std::int64_t seq, std::int64_t head_dim);       // floats per thread
  std::int64_t (*attention_grad_scratch)(std::int64_t seq, std::int64_t head_dim);
  // `starts`: of the documents, or null.
  void (*attention)(const Attention&, const AttentionRange&, const float* qkv, const std::int32_t* starts, float* out,
                    float* lse, float* scratch);
  // delta = Σ_d dout·out of the range's rows, for every head of the kv head.
  void (*attention_delta)(const AttentionGrad&, const AttentionRange&, const float* out,
                          const float* dout, float* delta);
  // dq of the range's rows, and/or dk and dv of the range's rows; both only for the whole sequence.
  void (*attention_grad)(const AttentionGrad&, const AttentionRange&, bool dq, bool dkv,
                         const float* qkv, const std::int32_t* starts, const float* lse, const float* dout,
                         const float* delta, float* dqkv, float* scratch);

  // Rows [begin, end).
  void (*rms_norm)(const RmsNorm&, const float* x, const float* weight, const float* delta, float* y,
                   float* rstd, float* sum, std::int64_t begin, std::int64_t end);
  void (*rms_norm_grad)(const RmsNormGrad&, const float* x, const float* rstd, const float* weight,
                        const float* dy, const float* dresidual, float* dx, float* partial_row,
                        std::int64_t begin, std::int64_t end);
  // to[j] (+)= Σ_i from[i, j] in the order of i, columns [begin, end).
  void (*sum_rows)(const float* from, std::int64_t rows, std::int64_t columns, float* to, bool accumulate,
                   std::int64_t begin, std::int64_t end);
  void (*rope)(const Rope&, const float* table, const std::int32_t* starts, float* qkv, std::int64_t begin, std::int64_t end);
  void (*swiglu)(const SwiGlu&, const float* gate_up, float* out, std::int64_t begin, std::int64_t end);
  void (*swiglu_grad)(const SwiGluGrad&, const float* gate_up, const float* dout, float* dgate_up,
                      std::int64_t begin, std::int64_t end);
  void (*add)(const float* a, const float* b, float* out, std::int64_t n);
  void (*embedding)(const Embedding&, std::int64_t first, const std::int32_t* ids, const float* table,
                    float* x, std::int64_t begin, std::int64_t end);
  // Columns [begin, end).
  void (*embedding_grad)(const EmbeddingGrad&, std::int64_t first, const std::int32_t* ids,
                         const float* dx, float* dtable, std::int64_t begin, std::int64_t end);

  // `valid`: columns that are not padding; `first`: the rank's first column in the whole vocabulary.
  void (*cross_entropy_stats)(const CrossEntropyStats&, std::int64_t first, std::int64_t valid,
                              const float* logits, const std::int32_t* targets, float* stats,
                              std::int64_t begin, std::int64_t end);
  // Adds Σ loss and the number of counted rows to partial[2].
  void (*cross_entropy_grad)(const CrossEntropyGrad&, double loss_scale, std::int64_t first, std::int64_t valid,
                             const std::int32_t* targets, const float* stats, float* logits,
                             double* partial, std::int64_t begin, std::int64_t end);

  double (*sum_squares)(const float*, std::int64_t n);
  void (*adamw)(const AdamWScalars&, const float* gradient, float* weight, float* m, float* v,
                std::int64_t n);

  // The functions that the tests bound the error of: y[i] = e^x[i], 2^x[i].
  void (*exp)(const float* x, float* y, std::int64_t n);
  void (*exp2)(const float* x, float* y, std::int64_t n);
};

// The kernels in use: the best this CPU can run, or what LLMPLAN_ISA asks for; chosen once.
const KernelTable& kernels();
// Those of one instruction set; nullptr where this program or this CPU does not have them.
const KernelTable* kernels_for(std::string_view name);

}  // namespace llmplan::cpu
