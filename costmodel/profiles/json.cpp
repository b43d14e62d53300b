// Strict JSON (RFC 8259) to a tree with positions. Python's NaN and Infinity are let through as
// scalars, which no number reader accepts: a config may hold them in keys that nobody reads.
#include <cctype>
#include <string_view>
#include <unordered_map>

#include <fmt/format.h>

#include "costmodel/profiles/node.h"

namespace llmplan {
namespace {

class JsonParser {
 public:
  JsonParser(const std::string& text, std::shared_ptr<const Source> source)
      : text_(text), source_(std::move(source)) {}

  Node document() {
    if (text_.starts_with("\xEF\xBB\xBF")) i_ = line_start_ = 3;  // a byte order mark
    Node root = value(0);
    blanks();
    if (i_ < text_.size())
      error("E0113", "more text after the end of the document", "one file holds one document");
    return root;
  }

 private:
  const std::string& text_;
  std::shared_ptr<const Source> source_;
  std::size_t i_ = 0, line_start_ = 0;
  int line_ = 1;

  char peek() const { return i_ < text_.size() ? text_[i_] : '\0'; }
  void blanks() {
    while (i_ < text_.size() &&
           (text_[i_] == ' ' || text_[i_] == '\t' || text_[i_] == '\r' || text_[i_] == '\n')) {
      if (text_[i_] == '\n') {
        ++line_;
        line_start_ = i_ + 1;
      }
      ++i_;
    }
  }
  Node here() const {
    Node node;
    node.line = line_;
    node.column = static_cast<int>(i_ - line_start_) + 1;
    node.source = source_;
    return node;
  }
  [[noreturn]] void error(std::string code, std::string message, std::string hint) const {
    fail(here(), std::move(code), std::move(message), std::move(hint));
  }
  [[noreturn]] void unexpected(const char* wanted) const {
    error("E0101",
          i_ >= text_.size() ? fmt::format("the file ends where {} should stand", wanted)
                             : fmt::format("this is not JSON: {} should stand here", wanted),
          i_ >= text_.size() ? "was the file cut off?" : "check commas, quotes and brackets");
  }

  Node value(int depth) {
    blanks();
    if (depth > deepest_nesting)
      error("E0115", fmt::format("nested more than {} deep", deepest_nesting),
            "a config needs no more than 5 levels");
    switch (peek()) {
      case '{':
        return object(depth);
      case '[':
        return array(depth);
      case '"': {
        Node node = here();
        node.kind = Node::Kind::scalar;
        node.quoted = true;
        node.text = string();
        return node;
      }
      default:
        return word();
    }
  }
  Node object(int depth) {
    Node node = here();
    node.kind = Node::Kind::map;
    std::unordered_map<std::string, int> first_line;
    ++i_;
    blanks();
    if (peek() == '}') {
      ++i_;
      return node;
    }
    for (;;) {
      blanks();
      Node key = here();
      if (peek() != '"') unexpected("a key in double quotes");
      key.kind = Node::Kind::scalar;
      key.quoted = true;
      key.text = string();
      if (const auto [before, is_new] = first_line.emplace(key.text, key.line); !is_new)
        fail_twice(key, before->second);
      blanks();
      if (peek() != ':') unexpected("':'");
      ++i_;
      Node v = value(depth + 1);
      node.entries.emplace_back(std::move(key), std::move(v));
      blanks();
      if (peek() == '}') {
        ++i_;
        return node;
      }
      if (peek() != ',') unexpected("',' or '}'");
      ++i_;
    }
  }
  Node array(int depth) {
    Node node = here();
    node.kind = Node::Kind::list;
    ++i_;
    blanks();
    if (peek() == ']') {
      ++i_;
      return node;
    }
    for (;;) {
      node.items.push_back(value(depth + 1));
      blanks();
      if (peek() == ']') {
        ++i_;
        return node;
      }
      if (peek() != ',') unexpected("',' or ']'");
      ++i_;
    }
  }
  unsigned hex4() {
    unsigned code = 0;
    for (int k = 0; k < 4; ++k) {
      const char c = peek();
      const int digit = c >= '0' && c <= '9'   ? c - '0'
                        : c >= 'a' && c <= 'f' ? c - 'a' + 10
                        : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                               : -1;
      if (digit < 0) unexpected("a hexadecimal digit");
      code = code * 16 + static_cast<unsigned>(digit);
      ++i_;
    }
    return code;
  }
  static void append_utf8(std::string& out, unsigned c) {
    const auto put = [&](unsigned b) { out += static_cast<char>(b); };
    if (c < 0x80) {
      put(c);
      return;
    }
    if (c < 0x800) {
      put(0xC0 | c >> 6);
      put(0x80 | (c & 0x3F));
      return;
    }
    if (c < 0x10000) {
      put(0xE0 | c >> 12);
      put(0x80 | (c >> 6 & 0x3F));
      put(0x80 | (c & 0x3F));
      return;
    }
    put(0xF0 | c >> 18);
    put(0x80 | (c >> 12 & 0x3F));
    put(0x80 | (c >> 6 & 0x3F));
    put(0x80 | (c & 0x3F));
  }
  std::string string() {
    std::string out;
    ++i_;
    for (;;) {
      if (i_ >= text_.size() || text_[i_] == '\n') unexpected("a closing '\"'");
      const char c = text_[i_++];
      if (c == '"') return out;
      if (c != '\\') {
        out += c;
        continue;
      }
      const char e = peek();
      const std::string_view from = "\"\\/bfnrt", to = "\"\\/\b\f\n\r\t";
      if (const std::size_t k = from.find(e); e != '\0' && k != std::string_view::npos) {
        out += to[k];
        ++i_;
        continue;
      }
      if (e != 'u') unexpected("one of \" \\ / b f n r t u after a backslash");
      ++i_;
      unsigned code = hex4();
      if (code >= 0xD800 && code < 0xDC00 && text_.compare(i_, 2, "\\u") == 0) {
        i_ += 2;
        const unsigned low = hex4();
        code = low >= 0xDC00 && low < 0xE000 ? 0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00)
                                             : 0xFFFD;
      } else if (code >= 0xD800 && code < 0xE000) {
        code = 0xFFFD;  // half of a pair
      }
      append_utf8(out, code);
    }
  }
  Node word() {
    Node node = here();
    const std::size_t begin = i_;
    while (i_ < text_.size() && (std::isalnum(static_cast<unsigned char>(text_[i_])) ||
                                 text_[i_] == '-' || text_[i_] == '+' || text_[i_] == '.'))
      ++i_;
    node.text = text_.substr(begin, i_ - begin);
    if (node.text == "null") return node;
    const bool number =
        !node.text.empty() &&
        (node.text[0] == '-' || std::isdigit(static_cast<unsigned char>(node.text[0])));
    if (!number && node.text != "true" && node.text != "false" && node.text != "NaN" &&
        node.text != "Infinity" && node.text != "-Infinity") {
      i_ = begin;
      unexpected("a value");
    }
    node.kind = Node::Kind::scalar;
    return node;
  }
};

}  // namespace

Node parse_json(const std::string& text, const std::string& file) {
  const auto source = make_source(text, file);
  check_encoding(text, *source);
  JsonParser parser(text, source);
  return parser.document();
}

}  // namespace llmplan
