// YAML events of yaml-cpp to a tree, minus the parts of YAML that surprise people.
#include <algorithm>
#include <sstream>
#include <unordered_map>

#include <fmt/format.h>
#include <yaml-cpp/eventhandler.h>
#include <yaml-cpp/exceptions.h>
#include <yaml-cpp/mark.h>
#include <yaml-cpp/parser.h>

#include "costmodel/profiles/node.h"

namespace llmplan {
namespace {

class TreeBuilder : public YAML::EventHandler {
 public:
  explicit TreeBuilder(std::shared_ptr<const Source> source) : source_(std::move(source)) {}
  Node root;

  void OnDocumentStart(const YAML::Mark&) override {}
  void OnDocumentEnd() override {}
  void OnNull(const YAML::Mark& mark, YAML::anchor_t anchor) override {
    refuse_anchor(mark, anchor);
    add(at(mark));
  }
  void OnAlias(const YAML::Mark& mark, YAML::anchor_t) override {
    fail(at(mark), "E0104", "aliases are not supported", "write the value out where it is needed");
  }
  void OnScalar(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                const std::string& value) override {
    refuse_anchor(mark, anchor);
    // yaml-cpp: "?" plain, "!" quoted, else an explicit tag.
    if (tag != "?" && tag != "!" && !tag.empty()) refuse_tag(mark, tag);
    Node node = at(mark);
    node.kind = Node::Kind::scalar;
    node.text = value;
    node.quoted = tag == "!";
    if (node.quoted) refuse_open_quote(node);
    if (!node.quoted && (value == "null" || value == "~" || value.empty()))
      node.kind = Node::Kind::null;
    add(std::move(node));
  }
  void OnSequenceStart(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                       YAML::EmitterStyle::value) override {
    open(mark, tag, anchor, Node::Kind::list);
  }
  void OnSequenceEnd() override { close(); }
  void OnMapStart(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                  YAML::EmitterStyle::value) override {
    open(mark, tag, anchor, Node::Kind::map);
  }
  void OnMapEnd() override { close(); }

 private:
  struct Level {
    Node node;
    std::optional<Node> key;
    std::unordered_map<std::string, int> first_line;  // of the keys so far
  };
  std::shared_ptr<const Source> source_;
  std::vector<Level> open_;

  Node at(const YAML::Mark& mark) const {
    Node node;
    node.line = std::max(0, mark.line) + 1;
    node.column = std::max(0, mark.column) + 1;
    node.source = source_;
    return node;
  }
  void refuse_anchor(const YAML::Mark& mark, YAML::anchor_t anchor) const {
    if (anchor != 0)
      fail(at(mark), "E0104", "anchors are not supported",
           "write the value out where it is needed");
  }
  [[noreturn]] void refuse_tag(const YAML::Mark& mark, const std::string& tag) const {
    fail(at(mark), "E0104", fmt::format("tags such as {} are not supported", tag.substr(0, 40)),
         "remove the tag");
  }
  // yaml-cpp lets the end of the file close a quote, so a file that was cut off would pass for
  // whole.
  void refuse_open_quote(const Node& node) const {
    std::size_t i = static_cast<std::size_t>(node.column - 1),
                l = static_cast<std::size_t>(node.line - 1);
    const std::vector<std::string>& lines = source_->lines;
    if (l >= lines.size() || i >= lines[l].size()) return;
    const char quote = lines[l][i];
    if (quote != '"' && quote != '\'') return;  // a block scalar
    for (++i; l < lines.size(); ++l, i = 0) {
      for (; i < lines[l].size(); ++i) {
        const bool doubled = quote == '\'' && lines[l].compare(i, 2, "''") == 0;
        if (doubled || (quote == '"' && lines[l][i] == '\\'))
          ++i;
        else if (lines[l][i] == quote)
          return;
      }
    }
    fail(node, "E0101", fmt::format("the quote {} is never closed", quote),
         "was the file cut off?");
  }
  void open(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
            Node::Kind kind) {
    refuse_anchor(mark, anchor);
    if (tag != "?" && tag != "!" && !tag.empty()) refuse_tag(mark, tag);
    Node node = at(mark);
    node.kind = kind;
    if (open_.size() >= deepest_nesting)
      fail(node, "E0115", fmt::format("nested more than {} deep", deepest_nesting),
           "a profile needs no more than 5 levels");
    if (!open_.empty() && open_.back().node.kind == Node::Kind::map && !open_.back().key)
      fail(node, "E0101", "a list or mapping cannot be a key",
           "keys are plain words: `key: value`");
    open_.push_back({std::move(node), std::nullopt, {}});
  }
  void close() {
    Node done = std::move(open_.back().node);
    open_.pop_back();
    add(std::move(done));
  }
  void add(Node node) {
    if (open_.empty()) {
      root = std::move(node);
      return;
    }
    Level& level = open_.back();
    if (level.node.kind == Node::Kind::list) {
      level.node.items.push_back(std::move(node));
      return;
    }
    if (level.key) {
      level.node.entries.emplace_back(std::move(*level.key), std::move(node));
      level.key.reset();
      return;
    }
    if (node.kind != Node::Kind::scalar || node.text.empty())
      fail(node, "E0101", "a key is empty", "keys are plain words: `key: value`");
    if (node.text == "<<")
      fail(node, "E0104", "merge keys are not supported",
           "write the values out where they are needed");
    if (const auto [before, is_new] = level.first_line.emplace(node.text, node.line); !is_new)
      fail_twice(node, before->second);
    level.key = std::move(node);
  }
};

// A tab in the indentation is invisible and no YAML; yaml-cpp's own words about it are hard to
// follow.
void refuse_tabs(const Source& source) {
  for (std::size_t i = 0; i < source.lines.size(); ++i) {
    const std::string& line = source.lines[i];
    const std::size_t tab = line.find('\t'), text = line.find_first_not_of(" \t");
    if (tab != std::string::npos && text != std::string::npos && tab < text && line[text] != '#') {
      throw Error("E0102", Exit::usage, "a tab in the indentation", "indent with spaces",
                  source.at(static_cast<int>(i) + 1, static_cast<int>(tab) + 1));
    }
  }
}

}  // namespace

Node parse_yaml(const std::string& text, const std::string& file) {
  const auto source = make_source(text, file);
  check_encoding(text, *source);
  refuse_tabs(*source);
  std::istringstream in(text);
  TreeBuilder first(source), second(source);
  try {
    YAML::Parser parser(in);
    if (!parser.HandleNextDocument(first) || first.root.kind == Node::Kind::null) {
      throw Error("E0113", Exit::usage, "the file is empty",
                  "see docs/profiles.md for what it should hold", source->at(1, 1));
    }
    if (parser.HandleNextDocument(second)) {
      fail(second.root, "E0113", "a second document starts here",
           "one file holds one document; remove the `---`");
    }
  } catch (const YAML::Exception& e) {
    const int line = std::max(0, e.mark.line) + 1, column = std::max(0, e.mark.column) + 1;
    throw Error("E0101", Exit::usage, fmt::format("this is not YAML: {}", e.msg),
                "check indentation, quotes and brackets in this line and the one before",
                source->at(line, column));
  }
  return std::move(first.root);
}

}  // namespace llmplan
