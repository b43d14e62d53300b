// Every compute op on this machine's cores. One entry point; behind it, the same kernels compiled for
// several instruction sets, chosen once at run time. Results do not depend on the number of threads.
#pragma once

#include <cstddef>
#include <span>
#include <string_view>
#include <vector>

#include "costmodel/op.h"
#include "costmodel/strategy.h"
#include "executor/backend.h"
#include "executor/cpu/thread_pool.h"
#include "planner/program.h"

namespace llmplan::cpu {

struct KernelContext {
  ThreadPool* pool = nullptr;
  Coordinates where;
  StepScalars step;
  const Optimizer* optimizer = nullptr;         // AdamW
  const std::vector<Param>* params = nullptr;   // GradStats, AdamW: what decays, what is counted
  std::int64_t flat_begin = 0;                  // the same: element of the flat buffers at which their operands begin
};

// Runs `op` (not Load, not a transfer) on operands in the order of op.h. Blocks until done. Arithmetic is fp32;
// operands that are stored in fewer bits are widened and rounded, see stored_types.h.
void run(const Op& op, std::span<const std::byte* const> reads, std::span<std::byte* const> writes,
         const KernelContext& context);

// Memory that run() takes beside the operands, and keeps for the next call: `shared` on the calling thread,
// `per_thread` on every thread of the pool. A program's reserve is its largest `shared` plus threads times
// its largest `per_thread`.
struct KernelScratch { Bytes shared, per_thread; };
KernelScratch kernel_scratch(const Op& op);

std::string_view instruction_set();  // "avx512", "avx2", "generic"; LLMPLAN_ISA overrides, for tests

}  // namespace llmplan::cpu
