// What llmplan says about itself.
#pragma once

#include <string>

namespace llmplan::cli {

std::string overview();       // the page that `llmplan` alone prints
std::string version_line();
std::string version_json();   // schema llmplan.version/1

}  // namespace llmplan::cli
