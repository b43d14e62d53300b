#include <algorithm>
#include <filesystem>
#include <fstream>
#include <regex>
#include <string>
#include <vector>

#include <doctest/doctest.h>

namespace {

namespace fs = std::filesystem;

struct Include { std::string from, to; };

// Every `#include` of the sources under `folder`, paths relative to the source tree.
std::vector<Include> includes(const std::string& folder) {
  const fs::path source = LLMPLAN_SOURCE_DIR;
  const std::regex pattern(R"(^\s*#\s*include\s*[<"]([^>"]+)[>"])");
  std::vector<Include> result;
  for (const auto& entry : fs::recursive_directory_iterator(source / folder)) {
    const std::string extension = entry.path().extension().string();
    if (extension != ".h" && extension != ".cpp" && extension != ".cu" && extension != ".cuh") continue;
    std::ifstream in(entry.path());
    std::smatch match;
    for (std::string line; std::getline(in, line);)
      if (std::regex_search(line, match, pattern))
        result.push_back({fs::relative(entry.path(), source).string(), match[1]});
  }
  return result;
}

bool starts_with_any(const std::string& text, const std::vector<std::string>& prefixes) {
  return std::any_of(prefixes.begin(), prefixes.end(), [&](const std::string& p) { return text.starts_with(p); });
}

void check_none(const std::string& folder, const std::vector<std::string>& forbidden, const std::string& except = "") {
  const std::vector<Include> all = includes(folder);
  REQUIRE(all.size() > 10);  // the sources were found at all
  for (const Include& i : all) {
    if (!except.empty() && i.from.starts_with(except)) continue;
    if (starts_with_any(i.to, forbidden)) FAIL_CHECK(i.from << " includes " << i.to);
  }
}

}  // namespace

TEST_CASE("costmodel includes nothing of planner, executor, tools or tests") {
  check_none("costmodel", {"planner/", "executor/", "tools/", "tests/"});
}

TEST_CASE("planner includes nothing of executor, tools or tests") {
  check_none("planner", {"executor/", "tools/", "tests/"});
}

TEST_CASE("executor includes nothing of tools or tests") {
  check_none("executor", {"tools/", "tests/"});
}

TEST_CASE("only the leaf library of profiles reads files in the cost model") {
  check_none("costmodel", {"fstream", "iostream", "filesystem", "chrono", "yaml-cpp", "nlohmann", "costmodel/profiles/"},
             "costmodel/profiles/");
}
