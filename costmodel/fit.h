// Device and runtime constants from measured runs: few, each with a meaning, shared by every row of that
// device or runtime. docs/validation.md says how to read the result.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "costmodel/validate.h"

namespace llmplan {

// One constant that may move. A device's efficiency curves keep their shape and move as a whole (a factor).
struct Constant {
  std::string owner;  // "a100-80g-sxm" or "megatron-core"
  bool device = false;
  std::string name;   // "gemm_efficiency", "dispatch", …
  double before = 0, after = 0;
  std::int64_t rows = 0;  // measured runs whose prediction it moves
};

struct FitError {  // of one source, step time
  std::string source;
  std::int64_t n = 0;
  double before = 0, after = 0, left_out = 0;  // mean |predicted/measured − 1|
  double bias_after = 0, bias_left_out = 0;
};

struct RowError {  // of one row, predicted/measured − 1
  std::string source, id;
  double error = 0;
};

struct Fit {
  std::vector<Constant> constants;
  std::vector<FitError> errors;           // by source, then "all"
  std::vector<RowError> left_out_rows;    // of the fits that have not seen the row's source
  std::map<std::string, Device> devices;  // as fitted on everything
  std::map<std::string, Runtime> runtimes;
};

// Minimizes the mean over sources of a robust |log(predicted/measured)|, each source by the root of its rows,
// by coordinate search from the constants at hand; a weak pull towards these decides what rows do not.
// `left_out` refits without the source: a constant that no other source informs then takes the median of the
// same constant elsewhere.
Fit fit(const std::vector<Case>&, const ValidationData&, bool leave_one_out = true);

}  // namespace llmplan
