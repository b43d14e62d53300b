// How much memory this process uses and may use.
#pragma once

#include "planner/plan.h"

namespace llmplan {

Bytes process_peak();      // most that was ever resident
Bytes process_private(int pid);  // resident now, not shared with another process
Bytes memory_available();  // what the system and its control group would still give

// Error E0340 (exit 3) when a plan's ranks need more than is available: by how much, and which changes of
// the plan would fit.
void require_memory(const Plan&);

}  // namespace llmplan
