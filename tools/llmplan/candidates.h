// The strategies that `estimate` sets side by side when none was asked for.
#pragma once

#include <vector>

#include "costmodel/cluster.h"
#include "costmodel/model.h"
#include "costmodel/strategy.h"

namespace llmplan::cli {

// The usual ways to use this cluster, from the simplest to the most split. Some may not fit, and some
// may be illegal for the model: both are worth a row.
std::vector<Strategy> candidates(const ModelConfig&, const Cluster&);

}  // namespace llmplan::cli
