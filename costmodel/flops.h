// A step's FLOPs by what they are spent on.
#pragma once

#include "costmodel/estimate.h"

namespace llmplan {

struct FlopsByKind {  // of one step, whole model, all devices; they add up to StepFlops::hardware
  Flops attention_linears{}, attention_scores{}, mlp{}, head{}, recomputed{};
};
FlopsByKind flops_by_kind(const ModelConfig&, const Workload&, const Strategy&);

}  // namespace llmplan
