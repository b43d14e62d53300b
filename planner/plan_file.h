// Reading and writing plan.json, whose format is docs/plan-format.md.
#pragma once

#include <string>
#include "planner/plan.h"

namespace llmplan {

inline constexpr const char* kPlanSchema = "llmplan.plan/1";

// `plan.digest` is digest(build(plan).programs), or empty for a strategy without a program.
// Fills in what follows from the rest (compute order, checksums) and writes canonical text.
std::string to_json(const Plan&);

// Throws Error
//   E0330 not a plan · E0331 a plan of another format version · E0332 damaged: syntax, keys, types
//   E0333 fields that contradict one another · E0334 edited after it was written
//   E0335 this llmplan lowers the plan to another program than the one that was predicted
Plan plan_from_json(const std::string& text, const std::string& file);

}  // namespace llmplan
