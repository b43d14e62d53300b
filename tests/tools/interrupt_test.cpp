#include <string>

#include <doctest/doctest.h>
#include <nlohmann/json.hpp>

#include "tests/tools/shell.h"

using namespace llmplan;
using Json = nlohmann::json;

namespace {

std::string prepared(const std::string& name) {
  const std::string dir = scratch(name);
  std::string text;
  for (int i = 0; i < 3000; ++i) text += "line " + std::to_string(i) + ": the quick brown fox jumps over the lazy dog\n";
  write_text(dir + "/text.txt", text);
  const ShellResult r = sh("\"$LLMPLAN\" tune tiny-1m --seq 64 --global-batch 4 --micro-batch 2 --dp 2 --tp 1 --pp 1 -o plan.json", dir);
  REQUIRE_MESSAGE(r.exit == 0, r.err);
  return dir;
}

}  // namespace

TEST_CASE("Ctrl-C saves and exits with 75, and resuming gives bitwise what the uninterrupted run gives") {
  const std::string dir = prepared("interrupt");
  const ShellResult whole = sh("\"$LLMPLAN\" run plan.json --data text.txt --out whole --steps 40 --log-every 1", dir);
  REQUIRE_MESSAGE(whole.exit == 0, whole.err);
  // Interrupted once a few steps are done, wherever that is.
  const ShellResult stopped = sh(
      "\"$LLMPLAN\" run plan.json --data text.txt --out broken --steps 40 --log-every 1 & pid=$!\n"
      "until [ \"$(wc -l <broken/metrics.jsonl 2>/dev/null || echo 0)\" -ge 3 ]; do sleep 0.01; done\n"
      "kill -INT $pid; wait $pid",
      dir);
  CHECK_MESSAGE(stopped.exit == 75, stopped.err);
  CHECK(stopped.err.find("stopping after this step and saving") != std::string::npos);
  CHECK(stopped.err.find("--resume") != std::string::npos);
  const Json half = Json::parse(file_text(dir + "/broken/report.json"));
  CHECK(half["schema"] == "llmplan.report/1");

  const ShellResult resumed = sh("\"$LLMPLAN\" run plan.json --data text.txt --out broken --steps 40 --resume", dir);
  REQUIRE_MESSAGE(resumed.exit == 0, resumed.err);
  const ShellResult compared = sh("cmp whole/hf/model.safetensors broken/hf/model.safetensors", dir);
  CHECK_MESSAGE(compared.exit == 0, compared.out);
  CHECK(sh("test $(wc -l <broken/metrics.jsonl) -eq 40", dir).exit == 0);  // each step once
}

TEST_CASE("a second Ctrl-C quits at once and leaves the last checkpoint") {
  const std::string dir = prepared("twice");
  const ShellResult r = sh(
      "\"$LLMPLAN\" run plan.json --data text.txt --out run --steps 100000 --checkpoint-every 2 & pid=$!\n"
      "until ls run/checkpoints/*.safetensors >/dev/null 2>&1; do sleep 0.01; done\n"
      "kill -INT $pid; kill -INT $pid; sleep 0.3; kill -INT $pid 2>/dev/null; wait $pid",
      dir);
  // 75 when the first was dealt with before the second came; 6 when the second stopped it; 130 on the third.
  CHECK_MESSAGE((r.exit == 75 || r.exit == 6 || r.exit == 130), r.exit << r.err);
  CHECK(r.seconds < 20);
  const ShellResult sound = sh("\"$LLMPLAN\" checkpoint run --json", dir);
  CHECK_MESSAGE(sound.exit == 0, sound.out);
  CHECK(Json::parse(sound.out)["sound"] == true);
}

TEST_CASE("run writes report.json and metrics.jsonl with the promised keys") {
  const std::string dir = prepared("keys");
  const ShellResult r = sh("\"$LLMPLAN\" run plan.json --data text.txt --out run --steps 3 --json", dir);
  REQUIRE_MESSAGE(r.exit == 0, r.err);
  for (const std::string& text : {r.out, file_text(dir + "/run/report.json")}) {
    const Json d = Json::parse(text);
    CHECK(d["schema"] == "llmplan.report/1");
    for (const char* key : {"plan_digest", "predicted", "measured", "error", "per_op", "loss", "device", "versions"})
      CHECK_MESSAGE(d.contains(key), key);
    for (const char* key : {"step", "tokens_per_s", "tflops_per_device", "mfu", "arena_bytes", "peak_memory"}) {
      CHECK_MESSAGE(d["predicted"].contains(key), key);
      CHECK_MESSAGE(d["measured"].contains(key), key);
    }
    CHECK(d["measured"].contains("p5_step"));
    CHECK(d["measured"].contains("p95_step"));
    CHECK(d["predicted"]["arena_bytes"] == d["measured"]["arena_bytes"]);  // memory is exact
    CHECK(d["loss"].contains("first"));
    CHECK(d["loss"].contains("last"));
  }
  const std::string metrics = file_text(dir + "/run/metrics.jsonl");
  const Json line = Json::parse(metrics.substr(0, metrics.find('\n')));
  for (const char* key : {"step", "time", "loss", "grad_norm", "lr", "tokens", "step_s", "tokens_per_s", "tflops_per_device", "mfu", "memory"})
    CHECK_MESSAGE(line.contains(key), key);
  // Off a terminal, progress is key=value lines without control characters.
  CHECK(r.err.find("step=1/3 loss=") != std::string::npos);
  CHECK(r.err.find('\r') == std::string::npos);
  CHECK(r.err.find('\x1b') == std::string::npos);
}
