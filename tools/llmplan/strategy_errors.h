// A strategy that cannot be built, as the error of a command that was asked for exactly that one.
#pragma once

#include "costmodel/error.h"
#include "costmodel/estimate.h"

namespace llmplan::cli {

Error to_error(const Infeasible&);
Error does_not_fit(const Estimate&);  // E0302, exit 3

}  // namespace llmplan::cli
