#include "tools/llmplan/table.h"

#include <algorithm>

namespace llmplan::cli {
namespace {

std::string padded(const std::string& text, int width, Align align) {
  const std::string blank(static_cast<std::size_t>(std::max(0, width - display_width(text))), ' ');
  return align == Align::left ? text + blank : blank + text;
}

void append_line(std::string& out, std::string line) {
  line.erase(line.find_last_not_of(' ') + 1);
  out += line + '\n';
}

}  // namespace

int display_width(const std::string& text) {
  // One column per code point: continuation bytes 10xxxxxx count nothing. Good for what we print.
  return static_cast<int>(std::count_if(text.begin(), text.end(), [](char c) {
    return (static_cast<unsigned char>(c) & 0xC0) != 0x80;
  }));
}

std::string table(const std::vector<Column>& columns, const std::vector<std::vector<std::string>>& rows) {
  std::vector<int> widths;
  for (std::size_t c = 0; c < columns.size(); ++c) {
    int w = display_width(columns[c].title);
    for (const auto& row : rows)
      if (c < row.size()) w = std::max(w, display_width(row[c]));
    widths.push_back(w);
  }
  std::string out, line;
  for (std::size_t c = 0; c < columns.size(); ++c)
    line += (c == 0 ? " " : "  ") + padded(columns[c].title, widths[c], columns[c].align);
  append_line(out, line);
  for (const auto& row : rows) {
    line.clear();
    for (std::size_t c = 0; c < row.size(); ++c) {
      line += c == 0 ? " " : "  ";
      line += c < columns.size() ? padded(row[c], widths[c], columns[c].align) : row[c];
    }
    append_line(out, line);
  }
  return out;
}

}  // namespace llmplan::cli
