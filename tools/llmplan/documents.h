// The JSON documents of the command line, one function each. Sizes in bytes, times in seconds.
#pragma once

#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "costmodel/estimate.h"
#include "costmodel/flops.h"
#include "planner/plan.h"
#include "planner/search.h"

namespace llmplan::cli {

using Json = nlohmann::ordered_json;

Json model_json(const ModelConfig&);
Json cluster_json(const Cluster&);
Json workload_json(const Workload&);
Json memory_json(const Memory&);
// With the interval around it, and what the run of --tokens costs.
Json estimate_json(const Estimate&, const ModelConfig&, const Cluster&, const Workload&);
Json flops_json(const FlopsByKind&);
Json infeasible_json(const Strategy&, const Infeasible&, const Workload&);

// Prints one document on stdout.
void print_document(const Json&);

// For all of --tokens: device-hours × price; -1: no price or no tokens are stated.
double cost_of(const Estimate&, const Cluster&);

// null instead of a number that does not exist (negative: not known, or not finite).
Json known(double);

}  // namespace llmplan::cli
