#include "tools/llmplan/terminal.h"

#include <sys/ioctl.h>
#include <unistd.h>

#include <cstdlib>

namespace llmplan::cli {
namespace {

int descriptor(Output o) { return o == Output::out ? STDOUT_FILENO : STDERR_FILENO; }

const char* code_of(Style s) {
  switch (s) {
    case Style::bold: return "\x1b[1m";
    case Style::dim: return "\x1b[2m";
    case Style::red: return "\x1b[1;31m";
    case Style::yellow: return "\x1b[33m";
    case Style::green: return "\x1b[32m";
  }
  return "";
}

}  // namespace

bool is_terminal(Output o) { return isatty(descriptor(o)) == 1; }

bool has_color(Output o) {
  const char* no_color = std::getenv("NO_COLOR");
  if (no_color != nullptr && *no_color != '\0') return false;
  const char* term = std::getenv("TERM");
  if (term == nullptr || std::string_view(term) == "dumb") return false;
  return is_terminal(o);
}

int width(Output o) {
  winsize size{};
  if (ioctl(descriptor(o), TIOCGWINSZ, &size) == 0 && size.ws_col > 0) return size.ws_col;
  if (const char* columns = std::getenv("COLUMNS")) {
    const int n = std::atoi(columns);
    if (n >= 20 && n <= 1000) return n;
  }
  return 100;
}

std::string styled(Output o, Style style, std::string_view text) {
  if (!has_color(o)) return std::string(text);
  return std::string(code_of(style)) + std::string(text) + "\x1b[0m";
}

}  // namespace llmplan::cli
