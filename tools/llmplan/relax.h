// What would make a training run fit that does not.
#pragma once

#include <string>
#include <vector>

#include "costmodel/estimate.h"
#include "planner/search.h"
#include "tools/llmplan/options.h"

namespace llmplan::cli {

struct Relaxation {
  std::string change;   // "--seq 2048", "16 devices instead of 8"
  Estimate result;      // the best strategy that fits then, estimated, not guessed
};
// The smallest step in each direction that fits, from strategies that came closest.
std::vector<Relaxation> relaxations(const Inputs&, const Limits&, const std::vector<Estimate>& closest);

// The built-in model with the most parameters that these strategies can train on the cluster; empty: none.
std::string largest_model_that_fits(const Inputs&, const std::vector<Estimate>& closest);

}  // namespace llmplan::cli
