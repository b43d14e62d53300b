// What the writer and the reader of plan.json derive alike.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "planner/plan.h"

namespace llmplan::plan_file {

// 16 hex digits per section, over its values in canonical form: which part of a file was edited.
std::vector<std::pair<std::string, std::string>> checksums(const Plan&);

// "F0 F1 B0 …" per stage; empty for a strategy that cannot be lowered.
std::vector<std::string> compute_orders(const Plan&);

}  // namespace llmplan::plan_file
