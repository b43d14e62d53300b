// Measured ops as text, one line each.
#pragma once

#include <string>
#include <vector>

#include "costmodel/cluster.h"
#include "costmodel/profiles/node.h"

namespace llmplan {

std::string to_yaml(
    const std::vector<MeasuredOp>&);  // "measured:\n  - {…}\n…", empty if there is none
std::vector<MeasuredOp> read_measured(const Node& list);
std::string to_yaml(const std::vector<Contention>&);  // "contention:\n  - {…}\n…", empty if there is none
std::vector<Contention> read_contention(const Node& list);

}  // namespace llmplan
