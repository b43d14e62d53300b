// A YAML or JSON file as a tree that remembers where everything stood.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "costmodel/error.h"

namespace llmplan {

// The text of a file, for carets. Shared by all nodes that were read from it.
struct Source {
  std::string file;
  std::vector<std::string> lines;

  Location at(int line, int column, int length = 1) const;
};

struct Node {
  enum class Kind { null, scalar, list, map };
  Kind kind = Kind::null;
  std::string text;          // scalars
  bool quoted = false;       // "80" and '80' are text, never numbers
  int line = 0, column = 0;  // from 1
  std::shared_ptr<const Source> source;
  std::vector<Node> items;                     // lists
  std::vector<std::pair<Node, Node>> entries;  // maps, in file order; keys are scalars and differ

  const Node* find(std::string_view key) const;      // the value, nullptr if the key is absent
  const Node* find_key(std::string_view key) const;  // the key itself
  Location where() const;
};

// Text to tree, or Error E01xx. `file` is for messages.
Node parse_yaml(const std::string& text, const std::string& file);
Node parse_json(const std::string& text, const std::string& file);

// Throws `code` with the node's place.
[[noreturn]] void fail(const Node&, std::string code, std::string message, std::string hint);

[[noreturn]] void fail_twice(const Node& key, int first_line);  // E0103

std::shared_ptr<const Source> make_source(const std::string& text, const std::string& file);
// Refuses what no reader should see: NUL bytes, invalid UTF-8, more than 16 MiB.
void check_encoding(const std::string& text, const Source&);
// The whole file, or Error E0520 that says why it cannot be read.
std::string read_profile_file(const std::string& path);

constexpr int deepest_nesting = 64;

}  // namespace llmplan
