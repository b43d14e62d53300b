// Estimates as text: the header that says what was asked, strategies side by side, one in detail.
#pragma once

#include <string>
#include <vector>

#include "costmodel/estimate.h"
#include "tools/llmplan/options.h"

namespace llmplan::cli {

std::string inputs_header(const Inputs&);
// A row per estimate; does not fit: by how much. Columns that a narrow terminal has no room for go first
// to fewer memory components.
std::string strategy_table(const Cluster&, const std::vector<const Estimate*>&, int width);
std::string estimate_details(const Inputs&, const Estimate&);  // time split, communication, stages, FLOPs by kind
std::string peak_moment(const Estimate&);                       // when in a step its memory peaks
std::string fits_text(const Estimate&);                         // yes, tight (under 10 % room), no

}  // namespace llmplan::cli
