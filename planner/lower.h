// A plan becomes one program per pipeline stage: dataflow only, every instruction on Stream::compute, no
// waits. All fusion decisions are made here; a backend never adds, drops or reorders work. What the
// programs look like is docs/program.md.
#pragma once

#include <vector>
#include "costmodel/estimate.h"
#include "planner/plan.h"
#include "planner/program.h"

namespace llmplan {

// evaluate: forward and loss of one micro-batch. Both purposes leave {Σ grad² (0), Σ loss, tokens} of all
// ranks in Program::stats, and agree on the persistent buffers.
enum class Purpose : std::uint8_t { train, evaluate };

// Throws Error E0304 for a plan that check() refuses, E0305 for one that can only be estimated.
std::vector<Program> lower(const Plan&, Purpose = Purpose::train);

// Why a plan that check() accepts can only be estimated; an empty constraint if lower() takes it.
Infeasible why_not_lowerable(const Plan&);

}  // namespace llmplan
