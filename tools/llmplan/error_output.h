// How an Error looks, to a person on stderr and to a script on stdout.
#pragma once

#include <string>

#include "costmodel/error.h"

namespace llmplan::cli {

// error.h's layout: where, code, message; the source line with a caret; then what to do next.
std::string render(const Error&, bool color);
std::string error_json(const Error&);                 // schema llmplan.error/1
// For an exception that is nobody's input: exit code 1.
Error bug(const std::string& what);

}  // namespace llmplan::cli
