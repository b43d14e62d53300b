// docs/errors.md, built into the program so that `llmplan help E0312` works wherever it is installed.
#pragma once

#include <string>

namespace llmplan::cli {

std::string errors_page();

}  // namespace llmplan::cli
