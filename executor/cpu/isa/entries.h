// The kernels of this instruction set, as table.cpp lists them; see table.h for what each does.
#pragma once

#include "executor/cpu/isa/table.h"
#include "executor/cpu/isa/vec.h"

namespace llmplan::cpu::LLMPLAN_ISA {
namespace {
constexpr i64 kGemmPanel = 2 * kLanes;
constexpr i64 kGemmDepth = 512;
constexpr i64 kGemmRowPitch = kGemmDepth + 16;  // an odd number of cache lines: rows fall into different sets
constexpr i64 kAttentionBlock = 64;
}  // namespace

void pack_a(const float* a, i64 lda, bool transposed, i64 rows, i64 depth, float* to);
void pack_b(const float* b, i64 ldb, bool transposed, i64 columns, i64 depth, float* to);
void multiply(const float* a, bool a_transposed, i64 rows, const float* b, i64 columns, i64 depth, float* c, i64 ldc,
              bool add);

i64 attention_scratch(i64 seq, i64 head_dim);
i64 attention_grad_scratch(i64 seq, i64 head_dim);
void attention(const Attention&, const AttentionRange&, const float* qkv, const std::int32_t* starts, float* out,
               float* lse, float* scratch);
void attention_delta(const AttentionGrad&, const AttentionRange&, const float* out, const float* dout,
                     float* delta);
void attention_grad(const AttentionGrad&, const AttentionRange&, bool dq, bool dkv, const float* qkv,
                    const std::int32_t* starts, const float* lse, const float* dout, const float* delta, float* dqkv, float* scratch);

void rms_norm(const RmsNorm&, const float* x, const float* weight, const float* delta, float* y, float* rstd,
              float* sum, i64 begin, i64 end);
void rms_norm_grad(const RmsNormGrad&, const float* x, const float* rstd, const float* weight,
                   const float* dy, const float* dresidual, float* dx, float* partial_row, i64 begin,
                   i64 end);
void sum_rows(const float* from, i64 rows, i64 columns, float* to, bool accumulate, i64 begin, i64 end);
void rope(const Rope&, const float* table, const std::int32_t* starts, float* qkv, i64 begin, i64 end);
void swiglu(const SwiGlu&, const float* gate_up, float* out, i64 begin, i64 end);
void swiglu_grad(const SwiGluGrad&, const float* gate_up, const float* dout, float* dgate_up, i64 begin,
                 i64 end);
void add(const float* a, const float* b, float* out, i64 n);
void embedding(const Embedding&, i64 first, const std::int32_t* ids, const float* table, float* x, i64 begin,
               i64 end);
void embedding_grad(const EmbeddingGrad&, i64 first, const std::int32_t* ids, const float* dx, float* dtable,
                    i64 begin, i64 end);

void cross_entropy_stats(const CrossEntropyStats&, i64 first, i64 valid, const float* logits,
                         const std::int32_t* targets, float* stats, i64 begin, i64 end);
void cross_entropy_grad(const CrossEntropyGrad&, double loss_scale, i64 first, i64 valid, const std::int32_t* targets,
                        const float* stats, float* logits, double* partial, i64 begin, i64 end);

double sum_squares(const float*, i64 n);
void adamw(const AdamWScalars&, const float* gradient, float* weight, float* m, float* v, i64 n);

void exp_of(const float* x, float* y, i64 n);
void exp2_of(const float* x, float* y, i64 n);

extern const KernelTable table;

}  // namespace llmplan::cpu::LLMPLAN_ISA
