// What is left of an estimate when the architecture is not known but its checkpoint's parameters are counted.
#pragma once

#include <string>

#include "tools/llmplan/options.h"

namespace llmplan::cli {

// Parameters counted beside an unsupported config.json; 0: `model` is no such folder.
std::int64_t counted_parameters(const std::string& model);
// Weights, gradients and optimizer per device for data parallelism of every ZeRO stage. `runtime` says how many
// bytes each takes. Not for tensor or pipeline parallelism: what of a layer they split is not known.
std::string states_table(std::int64_t parameters, const Cluster&, const Runtime&, const Workload&);

}  // namespace llmplan::cli
