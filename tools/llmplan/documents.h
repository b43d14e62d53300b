// The JSON documents of the command line, one function each. Sizes in bytes, times in seconds.
#pragma once

#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "costmodel/estimate.h"
#include "planner/plan.h"
#include "planner/search.h"

namespace llmplan::cli {

using Json = nlohmann::ordered_json;

Json model_json(const ModelConfig&);
Json cluster_json(const Cluster&);
Json workload_json(const Workload&);
Json memory_json(const Memory&);
Json estimate_json(const Estimate&, const Workload&);
Json infeasible_json(const Strategy&, const Infeasible&, const Workload&);

// Prints one document on stdout.
void print_document(const Json&);

// null instead of a number that does not exist (negative: not known, or not finite).
Json known(double);

}  // namespace llmplan::cli
