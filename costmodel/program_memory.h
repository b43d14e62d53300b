// Memory of llmplan's own programs, stage by stage: what lower() allocates, and which of it is alive at
// the fullest moment.
#pragma once

#include "costmodel/block.h"

namespace llmplan {

// Bytes that one layer keeps for its backward pass, per micro-batch, by what it keeps.
std::int64_t saved_per_layer(const Shapes&);   // without recomputation
std::int64_t layer_input(const Shapes&);       // all that full recomputation keeps
Memory program_memory(const Shapes&, const StagePlace&, const Strategy&, const Device&, std::int64_t micro_batches);

}  // namespace llmplan
