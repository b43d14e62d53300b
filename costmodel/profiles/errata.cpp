#include "costmodel/profiles/errata.h"

#include <algorithm>

#include <fmt/format.h>

#include "costmodel/profiles/case_file.h"
#include "costmodel/profiles/files.h"
#include "costmodel/profiles/node.h"
#include "costmodel/profiles/profile_fields.h"
#include "costmodel/profiles/profiles.h"
#include "costmodel/profiles/quantity.h"

namespace llmplan {

std::vector<Erratum> parse_errata(const std::string& text, const std::string& file) {
  const Node root = parse_yaml(text, file);
  require(root, Node::Kind::list, "the file");
  std::vector<Erratum> errata;
  for (const Node& item : root.items) {
    only_keys(item, {"source", "rows", "cells", "why"}, "an erratum");
    Erratum e;
    e.source = read_text(required(item, "source", "an erratum"), "source");
    e.why = read_text(required(item, "why", "an erratum"), "why");
    const Node& rows = required(item, "rows", "an erratum");
    require(rows, Node::Kind::list, "rows");
    for (const Node& id : rows.items) e.rows.push_back(read_text(id, "a row's id"));
    const Node& cells = required(item, "cells", "an erratum");
    require(cells, Node::Kind::map, "cells");
    for (const auto& [column, cell] : cells.entries) {
      Case probe;
      if (!set_cell(probe, column.text, cell.text))
        fail(cell, "E0107", fmt::format("'{}' cannot stand in a column '{}'", cell.text, column.text), "docs/validation.md lists the columns");
      e.cells.emplace_back(column.text, cell.text);
    }
    errata.push_back(std::move(e));
  }
  return errata;
}

std::vector<Erratum> read_errata() {
  const std::string file = data_directory() + "/costmodel/validation/errata.yaml";
  return parse_errata(read_profile_file(file), file);
}

void correct(std::vector<Case>& cases, const std::vector<Erratum>& errata, std::vector<std::string>* notes) {
  for (const Erratum& e : errata) {
    std::vector<std::string> corrected;
    for (Case& c : cases) {
      if (c.source != e.source || std::ranges::find(e.rows, c.id) == e.rows.end()) continue;
      for (const auto& [column, cell] : e.cells) set_cell(c, column, cell);
      corrected.push_back(c.id);
    }
    if (corrected.empty() || !notes) continue;
    for (const auto& [column, cell] : e.cells)
      notes->push_back(fmt::format("{}: {} is read as {} in {}{}: {}", e.source, column, cell, corrected.front(),
                                   corrected.size() > 1 ? fmt::format(" and {} more", corrected.size() - 1) : "", e.why));
  }
}

}  // namespace llmplan
