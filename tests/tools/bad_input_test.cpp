// The table bad_input.cases, row by row: the right exit code, one clear message, nothing lost.
#include <unistd.h>

#include <filesystem>
#include <map>
#include <regex>
#include <sstream>
#include <string>
#include <vector>

#include <doctest/doctest.h>
#include <nlohmann/json.hpp>

#include "tests/tools/shell.h"

using namespace llmplan;
namespace fs = std::filesystem;

namespace {

struct Row {
  std::string title, command, needs;
  int exit = -1;
  std::vector<std::string> words;
};

std::vector<Row> read_rows() {
  std::istringstream in(file_text(std::string(LLMPLAN_SOURCE_DIR) + "/tests/tools/bad_input.cases"));
  std::vector<Row> rows;
  for (std::string line; std::getline(in, line);) {
    if (line.empty() || line[0] == '#') continue;
    const std::string rest = line.size() > 2 ? line.substr(2) : "";
    if (line.starts_with("$ ")) rows.back().command = rest;
    else if (line.starts_with("= ")) rows.back().exit = std::stoi(rest);
    else if (line.starts_with("~ ")) rows.back().words.push_back(rest);
    else if (line.starts_with("@ ")) rows.back().needs = rest;
    else rows.push_back({line, "", "", -1, {}});
  }
  return rows;
}

// Every file, by its content; large ones by size and time of the last write.
std::map<std::string, std::string> snapshot(const fs::path& directory) {
  std::map<std::string, std::string> files;
  for (const auto& entry : fs::recursive_directory_iterator(directory))
    if (entry.is_regular_file() && !entry.path().string().starts_with((directory / "bin").string()) &&
        !entry.path().string().starts_with((directory / "data").string()) && entry.path().filename() != "lock")
      files[fs::relative(entry.path(), directory).string()] =
          entry.file_size() < 200'000 ? file_text(entry.path().string())
                                      : std::to_string(entry.file_size()) + "@" + std::to_string(entry.last_write_time().time_since_epoch().count());
  return files;
}

int count(const std::string& text, const std::regex& pattern) {
  return static_cast<int>(std::distance(std::sregex_iterator(text.begin(), text.end(), pattern), std::sregex_iterator()));
}

void check_message(const Row& row, const ShellResult& r) {
  CHECK_MESSAGE(r.exit == row.exit, r.err);
  static const std::regex error_line(R"((^|\n)([^\n]*: )?error\[E0\d{3}\]: [^\n]+\n)");
  CHECK_MESSAGE(count(r.err, error_line) == 1, "one error message, this is: " << r.err);
  const std::size_t at = r.err.find("error[E0");
  CHECK_MESSAGE(at != std::string::npos, r.err);
  if (at == std::string::npos) return;
  const std::string message = r.err.substr(r.err.rfind('\n', at) == std::string::npos ? 0 : r.err.rfind('\n', at));
  for (const std::string& word : row.words)
    CHECK_MESSAGE(message.find(word) != std::string::npos, "'" << word << "' is not in: " << message);
  // The line of the error is followed by what to do next.
  const std::size_t hint = r.err.find('\n', at);
  CHECK_MESSAGE((hint != std::string::npos && r.err.find_first_not_of(" \n", hint) != std::string::npos), r.err);
  for (const char* trace : {"terminate called", "what():", "Aborted", "core dumped", "Segmentation", "std::", "[E0001]", "Traceback"})
    CHECK_MESSAGE(r.err.find(trace) == std::string::npos, r.err);
}

}  // namespace

TEST_CASE("bad input is answered with the right exit code, one clear message, and nothing lost") {
  const std::string dir = scratch("bad input");
  const ShellResult setup = sh("bash \"$SOURCE/tests/tools/bad_input.sh\"", dir);
  REQUIRE_MESSAGE(setup.exit == 0, setup.err);
  const bool root = geteuid() == 0;
  const bool mounts = root && sh("mkdir -p m && mount -t tmpfs none m && umount m", dir).exit == 0;
  const bool drops = !root || sh("setpriv --reuid=65534 --regid=65534 --clear-groups bin/llmplan --version", dir).exit == 0;
  // Root may write anywhere: such rows run as nobody, with copies of the binary and its data that nobody may read.
  const std::string prelude = std::string("LLMPLAN=\"$PWD/bin/llmplan\"; export LLMPLAN_DATA=\"$PWD/data\"; AS_USER() { ") +
                              (root ? "setpriv --reuid=65534 --regid=65534 --clear-groups \"$@\"" : "\"$@\"") + "; }\n" +
                              "LLMPLAN() { \"$LLMPLAN\" \"$@\"; }\n";
  const std::vector<Row> rows = read_rows();
  REQUIRE(rows.size() >= 40);
  int skipped = 0;
  for (const Row& row : rows) {
    CAPTURE(row.title);
    CAPTURE(row.command);
    REQUIRE(!row.words.empty());
    if ((row.needs == "root" && !mounts) || (row.needs == "user" && !drops)) {
      ++skipped;
      MESSAGE("skipped, needs " << row.needs << ": " << row.title);
      continue;
    }
    const auto before = snapshot(dir);
    // The binary's path may hold spaces.
    const std::string command = prelude + std::regex_replace(row.command, std::regex(R"(\$LLMPLAN)"), "\"$$LLMPLAN\"");
    const ShellResult r = sh(command, dir);
    check_message(row, r);
    CHECK_MESSAGE(r.seconds < 20, "it took " << r.seconds << " s");
    const auto after = snapshot(dir);
    for (const auto& [file, content] : before) {
      const auto now = after.find(file);
      CHECK_MESSAGE((now != after.end() && now->second == content), file << " was changed or lost");
    }
    for (const auto& [file, content] : after)
      CHECK_MESSAGE((file.find(".tmp") == std::string::npos), file << " was left behind");
    sh("rm -rf new new.json other.txt; chmod 755 readonly; true", dir);

    if (row.command.starts_with("$LLMPLAN ") && row.command.find('>') == std::string::npos && row.exit != 3) {
      const ShellResult j = sh(std::regex_replace(command, std::regex(R"("\$LLMPLAN" (?!"))"), "$& --json "), dir);
      CHECK(j.exit == row.exit);
      const nlohmann::json document = nlohmann::json::parse(j.out, nullptr, false);
      CHECK_MESSAGE(document.is_object(), "stdout with --json: " << j.out);
      if (!document.is_object()) continue;
      CHECK(document["schema"] == "llmplan.error/1");
      CHECK(document["exit"] == row.exit);
      CHECK(r.err.find("error[" + document["code"].get<std::string>() + "]") != std::string::npos);
      sh("rm -rf new new.json", dir);
    }
  }
  MESSAGE(rows.size() << " rows, " << skipped << " skipped");
}
