// The closed form for any runtime, architecture and strategy, from layer_cost.h.
#pragma once

#include "costmodel/estimate.h"
#include "costmodel/runtime.h"

namespace llmplan {

// Memory, time and communication; the strategy has passed check().
Estimate runtime_estimate(const ModelConfig&, const Cluster&, const Workload&, const Strategy&, const Runtime&);

}  // namespace llmplan
