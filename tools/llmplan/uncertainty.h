// The interval around a printed estimate, from the errors of comparable measured runs.
#pragma once

#include <string>

#include "costmodel/residuals.h"
#include "tools/llmplan/documents.h"
#include "tools/llmplan/options.h"

namespace llmplan::cli {

struct Uncertainty {
  Residuals::Interval time, memory;
  bool exact_arena = false;  // memory: a program of llmplan's own, whose arena is allocated to the byte
};
// Only for what is printed: it looks at every measured run.
Uncertainty uncertainty_of(const ModelConfig&, const Cluster&, const Workload&, const Strategy&);
inline Uncertainty uncertainty_of(const Inputs& in, const Estimate& e) {
  return uncertainty_of(in.model, in.cluster, in.workload, e.strategy);
}

// Half-widths (relative), intervals in seconds and bytes, what they rest on; null: not known.
Json uncertainty_json(const Uncertainty&, const Estimate&);
// Lines for a person, each indented by a space.
std::string uncertainty_text(const Uncertainty&, const Estimate&);

}  // namespace llmplan::cli
