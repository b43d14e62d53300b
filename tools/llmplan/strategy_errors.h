// A strategy that cannot be built, as the error of a command that was asked for exactly that one.
#pragma once

#include "costmodel/error.h"
#include "costmodel/estimate.h"

namespace llmplan::cli {

Error to_error(const Infeasible&);

}  // namespace llmplan::cli
