#include "tools/llmplan/parse_errors.h"

#include <algorithm>
#include <string>
#include <vector>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "costmodel/profiles/profiles.h"

namespace llmplan::cli {
namespace {

const CLI::App& chosen(const CLI::App& root) {
  const auto commands = root.get_subcommands();
  return commands.empty() ? root : chosen(*commands.front());
}

std::string usage(const CLI::App& root, const CLI::App& command) {
  return &command == &root ? "llmplan help" : fmt::format("llmplan {} --help", command.get_name());
}

std::vector<std::string> option_names(const CLI::App& app) {
  std::vector<std::string> names;
  for (const CLI::Option* option : app.get_options())
    for (const std::string& name : option->get_lnames()) names.push_back("--" + name);
  return names;
}

// What other tools call our options, by a part of the name.
struct Elsewhere { const char* part; const char* option; };
constexpr Elsewhere kElsewhere[] = {{"tensor", "--tp"},         {"pipeline", "--pp"},          {"virtual", "--vpp"},
                                    {"interleav", "--vpp"},     {"data-par", "--dp"},          {"context", "--cp"},
                                    {"expert", "--ep"},         {"micro", "--micro-batch"},    {"batch", "--global-batch"},
                                    {"accum", "--accumulation"}, {"checkpoint", "--recompute"}, {"zero", "--zero"},
                                    {"fsdp", "--zero"},         {"sequence-par", "--sp"},      {"seq", "--seq"},
                                    {"length", "--seq"},        {"lr", "--lr"},                {"learning", "--lr"},
                                    {"iters", "--steps"},       {"output", "--out"},           {"dtype", "--precision"},
                                    {"gpu", "--cluster"},       {"device", "--cluster"},       {"node", "--cluster"}};

std::string did_you_mean(const std::string& word, const std::vector<std::string>& names,
                         const std::string& more) {
  std::vector<std::string> close;
  for (const Elsewhere& e : kElsewhere) {
    if (!close.empty() || word.size() < 8 || word.find(e.part) == std::string::npos) continue;
    if (std::find(names.begin(), names.end(), e.option) != names.end()) close.push_back(e.option);
  }
  for (const std::string& name : nearest(word, names)) {
    if (close.size() == 1 && close[0].size() + 6 < word.size()) break;  // the table's answer says it all
    if (std::find(close.begin(), close.end(), name) == close.end()) close.push_back(name);
  }
  if (close.empty()) return "all of them: " + more;
  return fmt::format("did you mean {}?  all of them: {}", fmt::join(close, " or "), more);
}

Error unknown(const std::vector<std::string>& extras, CLI::App& root) {
  const CLI::App& command = chosen(root);
  for (const std::string& word : extras) {
    if (word.size() < 2 || word[0] != '-') continue;
    const std::string name = word.substr(0, word.find('='));
    std::vector<std::string> names = option_names(command);
    if (&command != &root)
      for (const std::string& n : option_names(root)) names.push_back(n);
    return Error("E0120", Exit::usage,
                 &command == &root
                     ? fmt::format("unknown option '{}'", name)
                     : fmt::format("unknown option '{}' of llmplan {}", name, command.get_name()),
                 did_you_mean(name, names, usage(root, command)));
  }
  const std::string word = extras.empty() ? "" : extras.front();
  if (&command == &root) {
    std::vector<std::string> names;
    for (const CLI::App* sub : root.get_subcommands([](CLI::App*) { return true; }))
      names.push_back(sub->get_name());
    return Error("E0123", Exit::usage, fmt::format("unknown command '{}'", word),
                 did_you_mean(word, names, fmt::format("{}", fmt::join(names, " "))));
  }
  return Error("E0124", Exit::usage,
               fmt::format("llmplan {} does not take a further argument '{}'", command.get_name(), word),
               "see: " + usage(root, command));
}

}  // namespace

Error to_error(const CLI::ParseError& e, CLI::App& root) {
  const std::vector<std::string> extras = root.remaining(true);
  for (const std::string& word : extras)
    if (!word.empty() && word[0] == '-') return unknown(extras, root);
  if (dynamic_cast<const CLI::ExtrasError*>(&e) != nullptr) return unknown(extras, root);

  const std::string see = "see: " + usage(root, chosen(root));
  if (dynamic_cast<const CLI::RequiredError*>(&e) != nullptr)
    return Error("E0122", Exit::usage, e.what(), see);
  std::string message = e.what();
  const std::string option = message.substr(0, message.find(':'));
  if (message.ends_with(" missing")) message = option + " needs a value";
  else if (message.find("but received") != std::string::npos) message = option + " is given more than once";
  return Error("E0121", Exit::usage, message, see);
}

}  // namespace llmplan::cli
