#include <string>
#include <vector>

#include <doctest/doctest.h>
#include <nlohmann/json.hpp>

#include "tests/tools/shell.h"

using namespace llmplan;
using Json = nlohmann::json;

namespace {

Json document(const std::string& command, const std::string& dir, int exit = 0) {
  const ShellResult r = sh("\"$LLMPLAN\" " + command + " --json", dir);
  REQUIRE_MESSAGE(r.exit == exit, r.err);
  const Json d = Json::parse(r.out, nullptr, false);
  REQUIRE_MESSAGE(d.is_object(), command << " printed: " << r.out.substr(0, 200));
  return d;
}

}  // namespace

TEST_CASE("tune --json writes the plan and says how the space was covered") {
  const std::string dir = scratch("tune");
  const Json d = document("tune tiny-1m --seq 64 --global-batch 4 -o p.json", dir);
  CHECK(d["schema"] == "llmplan.tune/1");
  for (const char* key : {"best", "ranking", "pareto", "search", "plan"}) CHECK_MESSAGE(d.contains(key), key);
  for (const char* key : {"space", "evaluated", "pruned", "simulated", "seconds", "proven_optimal"})
    CHECK_MESSAGE(d["search"].contains(key), key);
  CHECK(d["plan"] == "p.json");
  CHECK(d["ranking"][0] == d["best"]);
  CHECK(d["search"]["pruned"].is_object());
  CHECK(Json::parse(file_text(dir + "/p.json"))["schema"] == "llmplan.plan/1");
}

TEST_CASE("when nothing fits, tune --json still is one document, with exit 3 and relaxations that fit") {
  const Json d = document("tune llama-2-70b --cluster 8xa100-80g-sxm -o p.json", scratch("nothing"), 3);
  CHECK(d["best"].is_null());
  CHECK(d["plan"].is_null());
  REQUIRE(!d["closest"].empty());
  REQUIRE(!d["relaxations"].empty());
  for (const Json& r : d["relaxations"]) CHECK_MESSAGE(r["result"]["fits"] == true, r["change"]);
}

TEST_CASE("every other command's --json is one document with its schema") {
  const std::string dir = scratch("documents");
  document("tune tiny-1m --seq 64 --global-batch 4 --pp 2 --dp 1 --tp 1 -o p.json", dir);
  write_text(dir + "/t.txt", std::string(5000, 'x'));
  struct Case { const char* command; const char* schema; };
  for (const Case& c : std::vector<Case>{{"models", "llmplan.models/1"},
                                         {"models tiny-1m", "llmplan.model/1"},
                                         {"hardware", "llmplan.hardware/1"},
                                         {"hardware h100-80g-sxm", "llmplan.device/1"},
                                         {"env", "llmplan.env/1"},
                                         {"simulate p.json --trace t.json", "llmplan.simulate/1"},
                                         {"explain p.json", "llmplan.explain/1"},
                                         {"why-not p.json tp=3", "llmplan.why_not/1"},
                                         {"data t.txt", "llmplan.data/1"},
                                         {"help estimate", "llmplan.help/1"},
                                         {"--version", "llmplan.version/1"}})
    CHECK_MESSAGE(document(c.command, dir)["schema"] == c.schema, c.command);
  CHECK(Json::parse(file_text(dir + "/t.json"))["traceEvents"].size() > 10);
}

TEST_CASE("explain accounts for every byte of the arena, and the stages' times for the step") {
  const std::string dir = scratch("explain");
  document("tune tiny-1m --seq 64 --global-batch 8 --micro-batch 2 --pp 2 --dp 1 --tp 1 -o p.json", dir);
  const Json e = document("explain p.json", dir);
  std::int64_t bytes = 0;
  for (const Json& row : e["memory"]) {
    bytes += row["bytes"].get<std::int64_t>();
    CHECK(!row["formula"].get<std::string>().empty());
  }
  CHECK(bytes == e["arena"]);
  CHECK(e["compute"].get<double>() + e["exposed_transfers"].get<double>() + e["idle"].get<double>() ==
        doctest::Approx(e["step"].get<double>()).epsilon(1e-9));  // the order of summation
  CHECK(e["arena"] == Json::parse(file_text(dir + "/p.json"))["prediction"]["arena_bytes"]);
}

TEST_CASE("why-not names the rule, or a number that estimate agrees with") {
  const std::string dir = scratch("why");
  document("tune tiny-1m --seq 64 --global-batch 4 --dp 1 --tp 1 --pp 1 --micro-batch 2 -o p.json", dir);
  const Json no = document("why-not p.json tp=3", dir);
  CHECK(no["possible"] == false);
  CHECK(no["reason"].get<std::string>().find("tp=3") != std::string::npos);
  const Json other = document("why-not p.json tp=2", dir);
  const Json estimated = document("estimate tiny-1m --seq 64 --global-batch 4 --tp 2 --micro-batch 2", dir);
  CHECK(other["possible"] == true);
  CHECK(other["step"] == estimated["strategies"][0]["time"]["step"]);
}

TEST_CASE("progress and notes go to stderr, NO_COLOR and pipes are honoured") {
  const std::string dir = scratch("streams");
  const ShellResult r = sh("NO_COLOR=1 \"$LLMPLAN\" estimate nonsense", dir);
  CHECK(r.out.empty());
  CHECK(r.err.find('\x1b') == std::string::npos);
  const ShellResult overview = sh("\"$LLMPLAN\"", dir);
  CHECK(overview.exit == 0);
  CHECK(overview.out.find("llmplan demo") != std::string::npos);
  for (const char* command : {"estimate", "tune", "run", "report", "simulate", "explain", "why-not", "calibrate", "validate",
                              "models", "hardware", "env", "data", "checkpoint", "export", "demo"}) {
    CHECK_MESSAGE(overview.out.find(command) != std::string::npos, command);
    CHECK_MESSAGE(sh(std::string("\"$LLMPLAN\" ") + command + " --help", dir).exit == 0, command);
  }
}
