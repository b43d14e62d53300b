#include "costmodel/profiles/node.h"

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>

#include <fmt/format.h>

namespace llmplan {

Location Source::at(int line, int column, int length) const {
  std::string text;
  if (line >= 1 && line <= static_cast<int>(lines.size()))
    text = lines[static_cast<std::size_t>(line - 1)];
  if (text.size() > 400) text.clear();  // a caret under a file without line breaks helps nobody
  return {file, line, column, text, std::max(1, length)};
}

const Node* Node::find_key(std::string_view key) const {
  for (const auto& [k, v] : entries)
    if (k.text == key) return &k;
  return nullptr;
}

const Node* Node::find(std::string_view key) const {
  for (const auto& [k, v] : entries)
    if (k.text == key) return &v;
  return nullptr;
}

Location Node::where() const {
  if (!source) return {};
  Location at = source->at(line, column);
  if (kind == Kind::scalar) {
    // A long or folded scalar is underlined to the end of its first line.
    const std::size_t width = text.size() + (quoted ? 2 : 0);
    const std::size_t left =
        at.source_line.size() - std::min(at.source_line.size(), std::size_t(column - 1));
    at.length = static_cast<int>(std::max<std::size_t>(1, std::min(width, left)));
  }
  return at;
}

void fail(const Node& node, std::string code, std::string message, std::string hint) {
  throw Error(std::move(code), Exit::usage, std::move(message), std::move(hint), node.where());
}

void fail_twice(const Node& key, int first_line) {
  fail(key, "E0103", fmt::format("'{}' is given twice", key.text.substr(0, 80)),
       fmt::format("first in line {}; keep one of them", first_line));
}

std::shared_ptr<const Source> make_source(const std::string& text, const std::string& file) {
  auto source = std::make_shared<Source>();
  source->file = file;
  std::size_t begin = 0;
  while (begin <= text.size()) {
    std::size_t end = text.find('\n', begin);
    if (end == std::string::npos) end = text.size();
    std::string line = text.substr(begin, end - begin);
    if (!line.empty() && line.back() == '\r') line.pop_back();
    source->lines.push_back(std::move(line));
    begin = end + 1;
  }
  return source;
}

namespace {

// The length of the UTF-8 sequence at p, 0 if it is not one (overlong forms and surrogates are
// not).
int utf8_length(const unsigned char* p, std::size_t left) {
  if (p[0] < 0x80) return 1;
  const int n = p[0] >= 0xC2 && p[0] <= 0xDF   ? 2
                : (p[0] & 0xF0) == 0xE0        ? 3
                : p[0] >= 0xF0 && p[0] <= 0xF4 ? 4
                                               : 0;
  if (n == 0 || static_cast<std::size_t>(n) > left) return 0;
  for (int i = 1; i < n; ++i)
    if ((p[i] & 0xC0) != 0x80) return 0;
  if (p[0] == 0xE0 && p[1] < 0xA0) return 0;
  if (p[0] == 0xED && p[1] > 0x9F) return 0;
  if (p[0] == 0xF0 && p[1] < 0x90) return 0;
  if (p[0] == 0xF4 && p[1] > 0x8F) return 0;
  return n;
}

}  // namespace

void check_encoding(const std::string& text, const Source& source) {
  constexpr std::size_t largest = std::size_t{16} << 20;
  if (text.size() > largest) {
    throw Error(
        "E0115", Exit::usage, fmt::format("the file has {} bytes, more than 16 MiB", text.size()),
        "is this a profile? a weights file cannot be read here", {source.file, 0, 0, "", 1});
  }
  int line = 1, column = 1;
  const auto* p = reinterpret_cast<const unsigned char*>(text.data());
  for (std::size_t i = 0; i < text.size();) {
    const int n = utf8_length(p + i, text.size() - i);
    const bool control = p[i] < 0x20 && p[i] != '\n' && p[i] != '\t' && p[i] != '\r';
    if (n == 0 || control || p[i] == 0x7F) {
      throw Error("E0115", Exit::usage,
                  n == 0 ? fmt::format("byte 0x{:02x} is not UTF-8 text", p[i])
                         : fmt::format("control character 0x{:02x}", p[i]),
                  "profiles are text files in UTF-8; save the file as such",
                  source.at(line, column));
    }
    if (p[i] == '\n') {
      ++line;
      column = 1;
    } else
      ++column;
    i += static_cast<std::size_t>(n);
  }
}

std::string read_profile_file(const std::string& path) {
  std::error_code ignored;
  if (std::filesystem::is_directory(path, ignored))
    throw Error("E0520", Exit::usage, fmt::format("'{}' is a directory", path),
                "give a file in it");
  errno = 0;
  std::ifstream in(path, std::ios::binary);
  std::string text;
  if (in) {
    char block[65536];
    // One byte more than a profile may have is enough to refuse it; never read a weights file
    // whole.
    while (in.read(block, sizeof block), in.gcount() > 0 && text.size() <= (std::size_t{16} << 20))
      text.append(block, static_cast<std::size_t>(in.gcount()));
  }
  if (!in.is_open() || in.bad()) {
    throw Error(
        "E0520", errno == ENOENT ? Exit::usage : Exit::environment,
        fmt::format("cannot read '{}': {}", path, errno ? std::strerror(errno) : "input error"),
        "check the path and its permissions");
  }
  return text;
}

}  // namespace llmplan
