// When each pipeline stage ends its last backward pass.
#pragma once

#include <cstdint>
#include <span>

#include "costmodel/strategy.h"

namespace llmplan {

// Seconds of one micro-batch; the first one's forward pass ends at `ready` at the earliest, counted from the start of the step.
struct StagePass { double forward = 0, backward = 0, ready = 0; };

// Seconds from the start of the step to the end of each stage's last backward; `hop` is one transfer
// between neighbours. `ends` has one entry per stage.
void pipeline_ends(Schedule, std::span<const StagePass>, std::int64_t micro_batches, double hop, std::span<double> ends);

// Forward passes whose activations a stage holds at once.
std::int64_t in_flight(Schedule, std::int64_t stage, std::int64_t stages, std::int64_t micro_batches);

}  // namespace llmplan
