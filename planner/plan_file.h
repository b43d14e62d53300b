// Reading and writing plan.json, whose format is docs/plan-format.md.
#pragma once

#include <string>
#include "planner/plan.h"

namespace llmplan {

std::string to_json(const Plan&);
// Throws Error E0330…: unknown schema, older, missing or contradictory fields, digest that does not match.
Plan plan_from_json(const std::string& text, const std::string& file);

}  // namespace llmplan
