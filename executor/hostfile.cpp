#include "executor/hostfile.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <sstream>

#include "costmodel/error.h"
#include "executor/file.h"

namespace llmplan {

std::vector<Host> read_hostfile(const std::string& path) { return parse_hostfile(read_file(path), path); }

std::vector<Host> parse_hostfile(const std::string& text, const std::string& path) {
  std::vector<Host> hosts;
  std::istringstream lines(text);
  int number = 0;
  for (std::string line; std::getline(lines, line);) {
    ++number;
    const std::string_view content = std::string_view(line).substr(0, line.find('#'));
    auto refuse = [&](std::string_view word, const char* code, const std::string& what, const std::string& hint) {
      throw Error(code, Exit::usage, what, hint,
                  {path, number, static_cast<int>(word.data() - line.data()) + 1, line, static_cast<int>(word.size())});
    };
    std::vector<std::string_view> words;
    constexpr const char* kBlank = " \t\r";
    for (std::size_t at = 0; (at = content.find_first_not_of(kBlank, at)) != content.npos;) {
      const std::size_t end = std::min(content.find_first_of(kBlank, at), content.size());
      words.push_back(content.substr(at, end - at));
      at = end;
    }
    if (words.empty()) continue;
    Host host{std::string(words[0]), 1};
    if (words[0].find('=') != words[0].npos)
      refuse(words[0], "E0106", fmt::format("'{}' stands where a host's name should", words[0]), "each line is: host slots=N");
    for (const Host& h : hosts)
      if (h.name == host.name)
        refuse(words[0], "E0103", fmt::format("host '{}' is listed twice", host.name), "give each host one line, with all its slots");
    for (std::size_t i = 1; i < words.size(); ++i) {
      const std::string_view word = words[i], key = word.substr(0, word.find('='));
      if (key != "slots" || i > 1)
        refuse(word, "E0105", fmt::format("'{}' is not understood in a hostfile", word), "each line is: host slots=N");
      const std::string_view value = word.size() > 6 ? word.substr(6) : word.substr(word.size());
      auto [stop, error] = std::from_chars(value.data(), value.data() + value.size(), host.slots);
      if (error != std::errc{} || stop != value.data() + value.size() || host.slots < 1)
        refuse(value.empty() ? word : value, "E0109", fmt::format("slots={} is not a number of ranks", value), "write slots=8 for eight ranks");
    }
    hosts.push_back(std::move(host));
  }
  if (hosts.empty())
    throw Error("E0106", Exit::usage, fmt::format("{} names no host", path), "each line is: host slots=N", {path, 0, 0, "", 1});
  return hosts;
}

}  // namespace llmplan
