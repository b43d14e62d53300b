// Corrections of published rows: costmodel/validation/errata.yaml.
#pragma once

#include <string>
#include <vector>

#include "costmodel/validate.h"

namespace llmplan {

struct Erratum {
  std::string source;
  std::vector<std::string> rows;                            // ids
  std::vector<std::pair<std::string, std::string>> cells;  // column, and what it should say
  std::string why;                                          // where the source contradicts itself
};

// Error with file, line and column for an unknown column or a cell that its column cannot hold.
std::vector<Erratum> read_errata();
std::vector<Erratum> parse_errata(const std::string& text, const std::string& file);
// Puts right the rows that have both the source and the id, and notes each correction that it made.
void correct(std::vector<Case>&, const std::vector<Erratum>&, std::vector<std::string>* notes);

}  // namespace llmplan
