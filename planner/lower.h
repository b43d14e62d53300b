// A plan becomes one program per pipeline stage: dataflow only, every instruction on Stream::compute, no
// waits. All fusion decisions are made here; a backend never adds, drops or reorders work.
#pragma once

#include <vector>
#include "planner/plan.h"
#include "planner/program.h"

namespace llmplan {

enum class Purpose : std::uint8_t { train, evaluate };  // evaluate: forward and loss of one micro-batch

// Throws Error E03xx for a plan that check() refuses.
std::vector<Program> lower(const Plan&, Purpose = Purpose::train);

}  // namespace llmplan
