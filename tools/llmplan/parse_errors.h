// What CLI11 says about a command line, as one of our errors.
#pragma once

#include <CLI/CLI.hpp>

#include "costmodel/error.h"

namespace llmplan::cli {

Error to_error(const CLI::ParseError&, CLI::App& root);

}  // namespace llmplan::cli
