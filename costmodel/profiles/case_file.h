// Case files: measurements of training runs as CSV. docs/validation.md
#pragma once

#include <map>
#include <string>
#include <vector>

#include "costmodel/validate.h"

namespace llmplan {

// RFC 4180: quotes may hold commas, quotes ("") and line breaks. The first record names the columns, in
// any order; columns that are absent are blank everywhere. Error E0130 (not a case file, or cells
// that do not match the header), E0131 (unknown column), E0132 (a cell that is no number), with the line.
std::vector<Case> parse_cases(const std::string& text, const std::string& file);
std::vector<Case> read_cases(const std::string& path);
// Whether the first line names a run's columns; a table of something else is not worth an error among others.
bool is_case_file(const std::string& path);

// costmodel/validation/blank_cells.yaml, profiles by name, and the built-in models.
std::map<std::string, BlankCells> read_blank_cells();
ValidationData validation_data();

}  // namespace llmplan
