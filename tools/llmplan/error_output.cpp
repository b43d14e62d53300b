#include "tools/llmplan/error_output.h"

#include <algorithm>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

namespace llmplan::cli {
namespace {

// A tab moves the caret by as much as it moves the text above it.
std::string blank_like(const std::string& line, int columns) {
  std::string blank;
  for (int i = 0; i < columns; ++i)
    blank += i < static_cast<int>(line.size()) && line[i] == '\t' ? '\t' : ' ';
  return blank;
}

std::string indented(const std::string& text) {
  std::string result = "  ";
  for (char c : text) {
    result += c;
    if (c == '\n') result += "  ";
  }
  return result + '\n';
}

}  // namespace

std::string render(const Error& e, bool color) {
  const Location& at = e.location;
  std::string where;
  if (at.line > 0) {
    where = fmt::format("{}:{}:{}: ", at.file, at.line, std::max(1, at.column));
  } else if (!at.file.empty() && e.message.find(at.file) == std::string::npos) {
    where = at.file + ": ";
  }
  const std::string label = color ? fmt::format("\x1b[1;31merror[{}]:\x1b[0m", e.code)
                                  : fmt::format("error[{}]:", e.code);
  std::string text = fmt::format("{}{} {}\n", where, label, e.message);
  if (at.line > 0 && !at.source_line.empty()) {
    const int column = std::max(1, at.column);
    const int room = std::max(1, static_cast<int>(at.source_line.size()) - column + 1);
    const std::string carets(static_cast<std::size_t>(std::clamp(at.length, 1, room)), '^');
    const bool one_line = e.hint.find('\n') == std::string::npos && e.hint.size() <= 60;
    text += fmt::format("{:>8} | {}\n", at.line, at.source_line);
    text += fmt::format("{:>8} | {}{}{}\n", "", blank_like(at.source_line, column - 1), carets,
                        one_line ? " " + e.hint : "");
    if (!one_line) text += indented(e.hint);
  } else if (!e.hint.empty()) {
    text += indented(e.hint);
  }
  return text;
}

std::string error_json(const Error& e) {
  nlohmann::ordered_json document = {{"schema", "llmplan.error/1"},
                                     {"code", e.code},
                                     {"exit", static_cast<int>(e.exit)},
                                     {"message", e.message},
                                     {"hint", e.hint}};
  document["location"] = nullptr;
  if (!e.location.file.empty()) {
    document["location"] = {{"file", e.location.file},
                            {"line", e.location.line},
                            {"column", e.location.column}};
  }
  // A message may quote bytes of a broken file, which need not be UTF-8.
  return document.dump(2, ' ', false, nlohmann::json::error_handler_t::replace);
}

Error bug(const std::string& what) {
  return Error("E0001", Exit::bug, "internal error: " + what,
               "this is a bug in llmplan, not in what you typed; please report it with the command "
               "line and the\noutput of `llmplan env`");
}

}  // namespace llmplan::cli
