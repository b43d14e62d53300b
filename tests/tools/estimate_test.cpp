#include <algorithm>
#include <string>
#include <vector>

#include <doctest/doctest.h>
#include <nlohmann/json.hpp>

#include "tests/tools/shell.h"

using namespace llmplan;
using Json = nlohmann::json;

TEST_CASE("estimate answers in under 50 ms, cold") {
  const std::string dir = scratch("cold");
  std::vector<double> seconds;
  for (int i = 0; i < 7; ++i) {
    const ShellResult r = sh("exec \"$LLMPLAN\" estimate llama-3.1-8b --cluster 8xh100-80g-sxm --seq 8192", dir);
    REQUIRE(r.exit == 0);
    seconds.push_back(r.seconds);
  }
  std::sort(seconds.begin(), seconds.end());
  MESSAGE("llmplan estimate, whole process: median " << 1e3 * seconds[3] << " ms, best " << 1e3 * seconds[0] << " ms");
  // The best of seven, because neighbours on a shared machine make some slow; sanitizers may take longer.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  CHECK(seconds[0] < 1.0);
#else
  CHECK(seconds[0] < 0.05);
#endif
}

TEST_CASE("estimate --json is one document with the promised keys, and its parts add up") {
  const ShellResult r = sh("\"$LLMPLAN\" estimate llama-3.1-8b --gpus 8xh100-80g-sxm --seq 8192 --tokens 100B --json", scratch("json"));
  REQUIRE(r.exit == 0);
  const Json d = Json::parse(r.out);
  CHECK(d["schema"] == "llmplan.estimate/1");
  CHECK(d["model"]["parameters"] == 8030261248);  // counted by transformers for the same config
  REQUIRE(d["strategies"].size() > 5);
  bool some_fit = false, some_do_not = false;
  for (const Json& row : d["strategies"]) {
    for (const char* key : {"tp", "pp", "vpp", "cp", "ep", "dp", "zero", "sp", "micro_batch", "recompute", "schedule",
                            "layers_per_stage", "attention", "precision", "optimizer", "offload"})
      CHECK_MESSAGE(row["strategy"].contains(key), key);
    if (row["memory"].is_null()) continue;  // cannot be built; says why
    const Json &m = row["memory"], &t = row["time"];
    std::int64_t bytes = 0;
    for (const char* key : {"weights", "gradients", "optimizer", "activations", "logits", "buffers", "reserve"}) {
      REQUIRE_MESSAGE(m[key].is_number_integer(), key);
      bytes += m[key].get<std::int64_t>();
    }
    CHECK(bytes == m["peak"]);
    CHECK(m.contains("capacity"));
    CHECK(m.contains("peak_stage"));
    double seconds = 0;
    for (const char* key : {"compute", "tp_comm", "cp_comm", "ep_comm", "dp_comm", "pp_comm", "bubble", "optimizer", "host"})
      seconds += t[key].get<double>();
    CHECK(seconds == doctest::Approx(t["step"].get<double>()).epsilon(1e-9));  // the order of summation
    for (const char* key : {"fits", "reason", "communication", "flops", "tokens_per_s", "tokens_per_s_per_device",
                            "tflops_per_device", "mfu", "hfu", "days", "uncertainty"})
      CHECK_MESSAGE(row.contains(key), key);
    (row["fits"].get<bool>() ? some_fit : some_do_not) = true;
    if (!row["fits"].get<bool>()) CHECK(row["reason"].is_string());
  }
  CHECK(some_fit);
  CHECK(some_do_not);  // by how much something misses is part of the answer
}

TEST_CASE("two of micro-batch, accumulation and global batch give the third") {
  const std::string dir = scratch("batch");
  const auto strategy = [&](const std::string& flags) {
    const ShellResult r = sh("\"$LLMPLAN\" estimate tiny-1m --seq 128 --json " + flags, dir);
    REQUIRE_MESSAGE(r.exit == 0, r.err);
    return Json::parse(r.out);
  };
  const Json a = strategy("--dp 2 --micro-batch 4 --accumulation 3");
  CHECK(a["workload"]["global_batch"] == 24);
  const Json b = strategy("--dp 2 --global-batch 24 --accumulation 3");
  CHECK(b["strategies"][0]["strategy"]["micro_batch"] == 4);
}
