// The ops that have a plan of their own for dividing work among threads, with the kernels of any instruction
// set that this CPU has.
#pragma once

#include "costmodel/op.h"
#include "executor/cpu/isa/table.h"
#include "executor/cpu/thread_pool.h"

namespace llmplan::cpu {

struct ScratchFloats { std::int64_t shared, per_thread; };

ScratchFloats gemm_scratch(const KernelTable&, const Gemm&);
void gemm(const KernelTable&, const Gemm&, const float* a, const float* b, float* c, ThreadPool&);
// `starts`: of the documents, or null.
void attention(const KernelTable&, const Attention&, const float* qkv, const std::int32_t* starts, float* out, float* lse, ThreadPool&);
void attention_grad(const KernelTable&, const AttentionGrad&, const float* qkv, const std::int32_t* starts, const float* out, const float* lse,
                    const float* dout, float* dqkv, float* delta, ThreadPool&);

}  // namespace llmplan::cpu
