#include "executor/cpu/isa/entries.h"

namespace llmplan::cpu::LLMPLAN_ISA {

#define LLMPLAN_STRING_(x) #x
#define LLMPLAN_STRING(x) LLMPLAN_STRING_(x)

constinit const KernelTable table = {
    .name = {LLMPLAN_STRING(LLMPLAN_ISA), sizeof(LLMPLAN_STRING(LLMPLAN_ISA)) - 1},
    .gemm_rows = kRowsPerTile,
    .gemm_panel = kGemmPanel,
    .gemm_depth = kGemmDepth,
    .gemm_strip_floats = kRowsPerTile * kGemmRowPitch,
    .pack_a = pack_a,
    .pack_b = pack_b,
    .multiply = multiply,
    .attention_block = kAttentionBlock,
    .attention_scratch = attention_scratch,
    .attention_grad_scratch = attention_grad_scratch,
    .attention = attention,
    .attention_delta = attention_delta,
    .attention_grad = attention_grad,
    .rms_norm = rms_norm,
    .rms_norm_grad = rms_norm_grad,
    .sum_rows = sum_rows,
    .rope = rope,
    .swiglu = swiglu,
    .swiglu_grad = swiglu_grad,
    .add = add,
    .embedding = embedding,
    .embedding_grad = embedding_grad,
    .cross_entropy_stats = cross_entropy_stats,
    .cross_entropy_grad = cross_entropy_grad,
    .sum_squares = sum_squares,
    .adamw = adamw,
    .exp = exp_of,
    .exp2 = exp2_of,
};

}  // namespace llmplan::cpu::LLMPLAN_ISA
