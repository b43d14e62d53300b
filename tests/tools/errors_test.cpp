#include <filesystem>
#include <fstream>
#include <map>
#include <regex>
#include <set>
#include <string>

#include <doctest/doctest.h>

#include "tests/tools/shell.h"

using namespace llmplan;
namespace fs = std::filesystem;

namespace {

std::set<std::string> codes_in(const std::string& text, const std::regex& pattern) {
  std::set<std::string> codes;
  for (std::sregex_iterator it(text.begin(), text.end(), pattern), end; it != end; ++it) codes.insert((*it)[1]);
  return codes;
}

std::set<std::string> thrown() {
  std::set<std::string> codes;
  for (const char* folder : {"costmodel", "planner", "executor", "tools"})
    for (const auto& entry : fs::recursive_directory_iterator(fs::path(LLMPLAN_SOURCE_DIR) / folder)) {
      const std::string extension = entry.path().extension().string();
      if (extension != ".h" && extension != ".cpp" && extension != ".cu" && entry.path().filename() != "bootstrap") continue;
      const std::string text = std::regex_replace(file_text(entry.path().string()), std::regex("//[^\n]*"), "");
      codes.merge(codes_in(text, std::regex(R"re("(E0\d{3})")re")));
      codes.merge(codes_in(text, std::regex(R"re(error\[(E0\d{3})\])re")));
    }
  return codes;
}

}  // namespace

TEST_CASE("docs/errors.md explains every error code that the program can print, and no other") {
  const std::set<std::string> documented =
      codes_in(file_text(std::string(LLMPLAN_SOURCE_DIR) + "/docs/errors.md"), std::regex(R"re(\n## (E0\d{3}) )re"));
  const std::set<std::string> used = thrown();
  REQUIRE(used.size() > 20);
  for (const std::string& code : used) CHECK_MESSAGE(documented.contains(code), code << " is thrown and not documented");
  for (const std::string& code : documented) CHECK_MESSAGE(used.contains(code), code << " is documented and never thrown");
}

TEST_CASE("llmplan help CODE prints that code's section") {
  const ShellResult r = sh("\"$LLMPLAN\" help E0312", scratch("help"));
  CHECK(r.exit == 0);
  CHECK(r.out.starts_with("E0312 "));
  CHECK(r.out.find("tp") != std::string::npos);
}
