// Columns of text: the first left-aligned, the others to the right unless they say otherwise.
#pragma once

#include <string>
#include <vector>

namespace llmplan::cli {

enum class Align { left, right };
struct Column { std::string title; Align align = Align::right; };

// Each row has a cell per column; a longer row's last cell is free text after the columns.
std::string table(const std::vector<Column>&, const std::vector<std::vector<std::string>>& rows);

// Columns that a terminal uses for UTF-8 text.
int display_width(const std::string&);

}  // namespace llmplan::cli
