// A list of machines: one line each, `host slots=N`; `#` starts a comment.
#pragma once

#include <string>
#include <vector>

namespace llmplan {

struct Host { std::string name; int slots = 1; };

// Errors E0105 to E0109 with line and column; E0401 when the file cannot be opened.
std::vector<Host> read_hostfile(const std::string& path);
std::vector<Host> parse_hostfile(const std::string& text, const std::string& path);

}  // namespace llmplan
