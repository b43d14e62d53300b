#include "costmodel/profiles/case_file.h"

#include <algorithm>
#include <charconv>
#include <cmath>

#include <fmt/format.h>

#include "costmodel/profiles/errata.h"
#include "costmodel/profiles/node.h"
#include "costmodel/profiles/quantity.h"
#include "costmodel/words.h"

namespace llmplan {
namespace {

struct Record {
  int line = 0;
  std::vector<std::string> cells;
  std::string problem;  // why its cells cannot be told apart
};

Location at(const std::string& file, int line) { return {file, line, 0, "", 1}; }

std::string trimmed(const std::string& text) {
  const auto first = text.find_first_not_of(" \t");
  return first == std::string::npos ? "" : text.substr(first, text.find_last_not_of(" \t") - first + 1);
}

std::vector<Record> split(const std::string& text, const std::string& file) {
  std::vector<Record> records;
  std::size_t i = text.starts_with("\xef\xbb\xbf") ? 3 : 0;  // a byte order mark, as spreadsheets write it
  int line = 1;
  const auto ends_cell = [&] { return i >= text.size() || text[i] == ',' || text[i] == '\n' || text[i] == '\r'; };
  while (i < text.size()) {
    Record record{line, {}, ""};
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
        if (!ends_cell()) record.problem = "text after the closing quote of a cell; a quote inside one is written twice";
      }
      while (!ends_cell()) cell += text[i++];
      record.cells.push_back(trimmed(cell));
      more = i < text.size() && text[i] == ',';
      if (more) ++i;
    }
    if (i < text.size() && text[i] == '\r') ++i;
    if (i < text.size() && text[i] == '\n') ++i;
    ++line;
    if (record.cells.size() > 1 || !record.cells[0].empty()) records.push_back(std::move(record));  // not empty lines
  }
  return records;
}

// How tables write that there is no number.
bool is_blank(const std::string& text) {
  static const std::string words[] = {"", "-", "n/a", "na", "nan", "none", "null", "?", "unknown"};
  return std::ranges::find(words, lower(text)) != std::end(words);
}

// 1,536 and 1_536: groups of three digits.
bool is_grouped(const std::string& text) {
  const std::size_t first = text.find_first_of(",_");
  if (first == std::string::npos || first == 0 || first > 3) return false;
  for (std::size_t k = 0; k < text.size(); ++k) {
    const bool separator = k >= first && (k - first) % 4 == 0;
    if (separator != (text[k] == ',' || text[k] == '_') || (!separator && (text[k] < '0' || text[k] > '9'))) return false;
  }
  return (text.size() - first) % 4 == 0;
}

bool parse(std::string text, double& value) {
  if (is_grouped(text)) std::erase_if(text, [](char c) { return c == ',' || c == '_'; });
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  return error == std::errc{} && end == text.data() + text.size() && std::isfinite(value) && value >= 0;
}

bool set(std::string& to, const std::string& text) {
  to = text;
  return true;
}
bool set(std::optional<double>& to, const std::string& text) {
  double value = 0;
  if (is_blank(text)) return true;
  if (!parse(text, value)) return false;
  to = value;
  return true;
}
bool set(std::optional<std::int64_t>& to, const std::string& text) {
  if (is_blank(text)) return true;
  if (lower(text) == "true") return to = 1, true;
  if (lower(text) == "false") return to = 0, true;
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

// A table of something else shares at most a column or two with ours, such as a source.
bool names_a_run(const Record& header, const std::vector<std::string>& known) {
  std::int64_t columns = 0;
  for (const std::string& name : header.cells)
    columns += std::ranges::find(known, name) != known.end() && name != "id" && name != "source" && name != "model" && name != "notes";
  return columns >= 3;
}

// "75 GB" in the column of numbers whose unit has a column of its own.
void split_off_unit(std::string& memory, std::string& unit) {
  const std::size_t letters = memory.find_first_not_of("0123456789.,_ ");
  if (letters == std::string::npos || letters == 0) return;
  if (unit.empty()) unit = memory.substr(letters);
  memory = trimmed(memory.substr(0, letters));
}

Case read_row(const Record& record, const std::vector<std::string>& columns, const std::vector<bool>& ours) {
  Case c;
  c.line = record.line;
  c.problem = record.problem;
  if (c.problem.empty() && record.cells.size() != columns.size())
    c.problem = fmt::format("{} cells, but {} columns; a cell that holds a comma must be quoted", record.cells.size(), columns.size());
  // What can be read is, so that a bad row still tells whose it is.
  for (std::size_t k = 0; k < std::min(columns.size(), record.cells.size()); ++k) {
    std::string text = record.cells[k];
    if (columns[k] == "peak_memory") split_off_unit(text, c.memory_unit);
    if (!text.empty() && ours[k] && !set_cell(c, columns[k], text) && c.problem.empty())
      c.problem = fmt::format("'{}' in column '{}' is not a number that makes sense there", record.cells[k], columns[k]);
  }
  return c;
}

}  // namespace

bool set_cell(Case& c, const std::string& column, const std::string& text) {
  bool ok = false;
  for_each_column(c, [&](const char* name, auto& member) {
    if (column == name) ok = set(member, text);
  });
  return ok;
}

std::vector<Case> parse_cases(const std::string& text, const std::string& file, std::vector<std::string>* notes) {
  std::vector<Record> records = split(text, file);
  const std::vector<std::string> known = column_names();
  if (!records.empty())
    for (std::string& name : records[0].cells) name = lower(name);
  if (records.empty() || !names_a_run(records[0], known))
    throw Error("E0130", Exit::usage, file + " is not a case file: its first line does not name the columns",
                "it needs columns such as runtime, device and n_devices; docs/validation.md lists all of them", at(file, 1));
  const std::vector<std::string>& columns = records[0].cells;
  std::vector<bool> ours;
  for (const std::string& name : columns) {
    ours.push_back(std::ranges::find(known, name) != known.end());
    if (ours.back() && std::ranges::count(columns, name) > 1)
      throw Error("E0131", Exit::usage, fmt::format("column '{}' appears twice", name), "keep one of them",
                  at(file, records[0].line));
    if (!ours.back() && notes)
      notes->push_back(fmt::format("{}: column '{}' is not known and not read; {}", file, name,
                                   did_you_mean(name, known, "docs/validation.md lists the columns")));
  }
  std::vector<Case> cases;
  for (std::size_t r = 1; r < records.size(); ++r) {
    cases.push_back(read_row(records[r], columns, ours));
    cases.back().file = file;
    if (cases.back().id.empty()) cases.back().id = fmt::format("{}:{}", file.substr(file.find_last_of('/') + 1), records[r].line);
  }
  return cases;
}

std::vector<Case> read_cases(const std::string& path, std::vector<std::string>* notes) {
  std::vector<Case> cases = parse_cases(read_profile_file(path), path, notes);
  correct(cases, read_errata(), notes);
  return cases;
}

bool is_case_file(const std::string& path) {
  const std::string text = read_profile_file(path);
  std::vector<Record> records = split(text.substr(0, text.find('\n')), path);
  if (records.empty()) return false;
  for (std::string& name : records[0].cells) name = lower(name);
  return names_a_run(records[0], column_names());
}

}  // namespace llmplan
