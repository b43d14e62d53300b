// From a plan to programs that are ready to run: lower -> overlap -> place -> verify.
#pragma once

#include <vector>
#include "planner/lower.h"
#include "planner/plan.h"
#include "planner/program.h"

namespace llmplan {

struct Lowered {
  std::vector<Program> programs;  // by stage
  std::vector<Layout> layouts;
};
Lowered build(const Plan&, Purpose = Purpose::train);

}  // namespace llmplan
