// Case files: measurements of training runs as CSV. docs/validation.md
#pragma once

#include <map>
#include <string>
#include <vector>

#include "costmodel/validate.h"

namespace llmplan {

// RFC 4180: quotes may hold commas, quotes ("") and line breaks. The first record names the columns, in
// any order; columns that are absent are blank everywhere, unknown ones are not read and noted. A row that
// cannot be read says so in Case::problem and costs no other row. Error E0130 (not a case file, or a quote
// that swallows its rest) and E0131 (a column twice), with the line.
std::vector<Case> parse_cases(const std::string& text, const std::string& file, std::vector<std::string>* notes = nullptr);
// The same of a file, with what costmodel/validation/errata.yaml puts right, each correction noted.
std::vector<Case> read_cases(const std::string& path, std::vector<std::string>* notes = nullptr);
// False if there is no such column, or the text is not of its type.
bool set_cell(Case&, const std::string& column, const std::string& text);
// Whether the first line names a run's columns; a table of something else is not worth an error among others.
bool is_case_file(const std::string& path);

// costmodel/validation/blank_cells.yaml, profiles by name, and the built-in models.
std::map<std::string, BlankCells> read_blank_cells();
ValidationData validation_data();

}  // namespace llmplan
