// The report of a finished run, as text: predicted beside measured.
#pragma once

#include <string>

#include "executor/trainer.h"

namespace llmplan::cli {

std::string report_text(const RunReport&, const std::string& directory);

}  // namespace llmplan::cli
