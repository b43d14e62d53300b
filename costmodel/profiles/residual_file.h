// validation/residuals.csv (written by `llmplan validate --residuals`, from published runs) and
// validation/own_residuals.csv (llmplan's own runs, docs/benchmarks.md): a row per measured run.
#pragma once

#include <string>
#include <vector>

#include "costmodel/residuals.h"
#include "costmodel/validate.h"

namespace llmplan {

// Of every headline row with a measured time or memory. Of these errors, those in `left_out` (by source and
// id) are the ones to keep: from a fit that has not seen the row's source.
struct LeftOut { std::string source, id; double error; };
std::vector<Residual> residuals_of(const std::vector<Case>&, const ValidationData&, const std::vector<LeftOut>& left_out);

std::string to_csv(const std::vector<Residual>&);
std::vector<Residual> parse_residuals(const std::string& text, const std::string& file);  // Error E0133
// Both files; without rows where there is none.
Residuals read_residuals();

}  // namespace llmplan
