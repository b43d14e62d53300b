#include "costmodel/profiles/case_file.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <functional>

#include <fmt/format.h>

#include "costmodel/profiles/node.h"
#include "costmodel/profiles/quantity.h"

namespace llmplan {
namespace {

struct Record {
  int line = 0;
  std::vector<std::string> cells;
};

Location at(const std::string& file, int line) { return {file, line, 0, "", 1}; }

std::vector<Record> split(const std::string& text, const std::string& file) {
  std::vector<Record> records;
  std::size_t i = text.starts_with("\xef\xbb\xbf") ? 3 : 0;  // a byte order mark, as spreadsheets write it
  int line = 1;
  while (i < text.size()) {
    Record record{line, {}};
    for (bool more = true; more;) {
      std::string cell;
      if (i < text.size() && text[i] == '"') {
        const int opened = line;
        for (++i;; ++i) {
          if (i >= text.size())
            throw Error("E0130", Exit::usage, "a quoted cell is never closed", "close it with '\"'", at(file, opened));
          if (text[i] == '"' && (i + 1 >= text.size() || text[i + 1] != '"')) break;
          if (text[i] == '"') ++i;
          line += text[i] == '\n';
          cell += text[i];
        }
        ++i;
        if (i < text.size() && text[i] != ',' && text[i] != '\n' && text[i] != '\r')
          throw Error("E0130", Exit::usage, "text after the closing quote of a cell",
                      "write a quote inside a quoted cell twice: \"\"", at(file, line));
      } else {
        while (i < text.size() && text[i] != ',' && text[i] != '\n' && text[i] != '\r') cell += text[i++];
      }
      const auto first = cell.find_first_not_of(" \t");
      record.cells.push_back(first == std::string::npos
                                 ? ""
                                 : cell.substr(first, cell.find_last_not_of(" \t") - first + 1));
      more = i < text.size() && text[i] == ',';
      if (more) ++i;
    }
    if (i < text.size() && text[i] == '\r') ++i;
    if (i < text.size() && text[i] == '\n') ++i, ++line;
    if (record.cells.size() > 1 || !record.cells[0].empty()) records.push_back(std::move(record));  // not empty lines
  }
  return records;
}

// The setter of one column; false if the text is not of the column's type.
using Setter = std::function<bool(Case&, const std::string&)>;

bool parse(const std::string& text, double& value) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  return error == std::errc{} && end == text.data() + text.size() && std::isfinite(value) && value >= 0;
}

bool set(std::string& to, const std::string& text) {
  to = text;
  return true;
}
bool set(std::optional<double>& to, const std::string& text) {
  double value = 0;
  if (!parse(text, value)) return false;
  to = value;
  return true;
}
bool set(std::optional<std::int64_t>& to, const std::string& text) {
  if (text == "true" || text == "True") return to = 1, true;
  if (text == "false" || text == "False") return to = 0, true;
  double value = 0;  // spreadsheets write 8 as 8.0
  if (!parse(text, value) || value != std::floor(value) || value > 9e15) return false;
  to = static_cast<std::int64_t>(value);
  return true;
}

std::vector<std::string> column_names() {
  std::vector<std::string> names;
  Case c;
  for_each_column(c, [&](const char* name, auto&) { names.push_back(name); });
  return names;
}

Setter setter_of(const std::string& column) {
  return [column](Case& c, const std::string& text) {
    bool ok = false;
    for_each_column(c, [&](const char* name, auto& member) {
      if (column == name) ok = set(member, text);
    });
    return ok;
  };
}

bool names_a_run(const Record& header) {
  const auto has = [&](const char* name) { return std::ranges::find(header.cells, name) != header.cells.end(); };
  return has("runtime") && has("device") && has("n_devices");
}

}  // namespace

std::vector<Case> parse_cases(const std::string& text, const std::string& file) {
  const std::vector<Record> records = split(text, file);
  if (records.empty() || !names_a_run(records[0]))
    throw Error("E0130", Exit::usage, file + " is not a case file: its first line does not name the columns",
                "it needs at least runtime, device and n_devices; docs/validation.md lists all of them", at(file, 1));
  const std::vector<std::string> known = column_names();
  std::vector<Setter> setters;
  for (std::size_t k = 0; k < records[0].cells.size(); ++k) {
    const std::string& name = records[0].cells[k];
    if (std::ranges::find(known, name) == known.end())
      throw Error("E0131", Exit::usage, fmt::format("unknown column '{}'", name),
                  did_you_mean(name, known, "docs/validation.md lists the columns"), at(file, records[0].line));
    if (std::ranges::count(records[0].cells, name) > 1)
      throw Error("E0131", Exit::usage, fmt::format("column '{}' appears twice", name), "keep one of them",
                  at(file, records[0].line));
    setters.push_back(setter_of(name));
  }
  std::vector<Case> cases;
  for (std::size_t r = 1; r < records.size(); ++r) {
    const Record& record = records[r];
    if (record.cells.size() != setters.size())
      throw Error("E0130", Exit::usage,
                  fmt::format("{} cells, but {} columns", record.cells.size(), setters.size()),
                  "a cell that holds a comma must be quoted", at(file, record.line));
    Case c;
    c.file = file;
    c.line = record.line;
    for (std::size_t k = 0; k < setters.size(); ++k)
      if (!record.cells[k].empty() && !setters[k](c, record.cells[k]))
        throw Error("E0132", Exit::usage,
                    fmt::format("'{}' in column '{}' is not a number that makes sense there", record.cells[k],
                                records[0].cells[k]),
                    "leave a cell blank when the value is not known", at(file, record.line));
    if (c.id.empty()) c.id = fmt::format("{}:{}", file.substr(file.find_last_of('/') + 1), record.line);
    cases.push_back(std::move(c));
  }
  return cases;
}

std::vector<Case> read_cases(const std::string& path) { return parse_cases(read_profile_file(path), path); }

bool is_case_file(const std::string& path) {
  const std::string text = read_profile_file(path);
  const std::vector<Record> records = split(text.substr(0, text.find('\n')), path);
  return !records.empty() && names_a_run(records[0]);
}

}  // namespace llmplan
