#include <algorithm>
#include <cmath>
#include <set>
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

namespace {

// The value of "2 * (3 + 4) / 5": what --explain prints must be arithmetic that anybody can redo.
struct Arithmetic {
  std::string text;
  std::size_t at = 0;
  void blanks() { while (at < text.size() && text[at] == ' ') ++at; }
  double factor() {
    blanks();
    if (text.at(at) == '(') {
      ++at;
      const double value = sum();
      blanks();
      REQUIRE(text.at(at) == ')');
      ++at;
      return value;
    }
    std::size_t length = 0;
    const double value = std::stod(text.substr(at), &length);
    at += length;
    return value;
  }
  double product() {
    double value = factor();
    for (blanks(); at < text.size() && (text[at] == '*' || text[at] == '/'); blanks()) {
      const char sign = text[at++];
      const double right = factor();
      value = sign == '*' ? value * right : value / right;
    }
    return value;
  }
  double sum() {
    double value = product();
    for (blanks(); at < text.size() && (text[at] == '+' || text[at] == '-'); blanks()) {
      const char sign = text[at++];
      const double right = product();
      value += sign == '+' ? right : -right;
    }
    return value;
  }
  double all() {
    const double value = sum();
    CHECK_MESSAGE(at == text.size(), text);
    return value;
  }
};

Json estimate(const std::string& arguments, const std::string& dir) {
  const ShellResult r = sh("\"$LLMPLAN\" estimate --json " + arguments, dir);
  REQUIRE_MESSAGE(r.exit == 0, r.err);
  return Json::parse(r.out);
}

}  // namespace

TEST_CASE("--explain: every formula, worked out with its numbers, is the field of the estimate") {
  const std::string dir = scratch("explain");
  for (const char* arguments : {"tiny-1m --seq 128 --dp 2 --zero 1", "llama-3.1-8b --cluster 2x8xh100-80g-sxm --seq 8192 --tp 2 --pp 2 --zero 1 --runtime megatron-core --tokens 1T --price 2.5",
                                "llama-3.1-8b --cluster 8xh100-80g-sxm --seq 8192 --dp 8 --zero 3 --recompute full --runtime fsdp2",
                                "mixtral-8x7b --cluster 4x8xh100-80g-sxm --seq 4096 --dp 32 --ep 8 --zero 1 --runtime megatron-core",
                                "llama-3.1-8b --cluster 8xh100-80g-sxm --seq 4096 --tp 8"}) {
    CAPTURE(std::string(arguments));
    const Json row = estimate(std::string(arguments) + " --explain", dir)["strategies"][0];
    std::set<std::string> explained;
    for (const Json& f : row["explain"]) {
      const std::string field = f["field"];
      CAPTURE(field);
      CAPTURE(f["numbers"].get<std::string>());
      const std::size_t dot = field.find('.');
      const Json& told = dot == std::string::npos ? row[field] : row[field.substr(0, dot)][field.substr(dot + 1)];
      CHECK(f["value"].get<double>() == told.get<double>());
      const double value = Arithmetic{f["numbers"], 0}.all();
      if (told.is_number_integer()) CHECK(std::llround(value) == told.get<std::int64_t>());
      else CHECK(value == doctest::Approx(told.get<double>()).epsilon(1e-9));  // the order of summation
      CHECK_FALSE(f["formula"].get<std::string>().empty());
      explained.insert(field);
    }
    // Nothing that is there goes unexplained.
    for (const char* group : {"memory", "time"})
      for (const auto& [key, value] : row[group].items()) {
        if (key == "capacity" || key == "peak_stage" || key == "allocated" || key == "reserved" || !value.is_number() || value == 0) continue;
        CHECK_MESSAGE(explained.contains(std::string(group) + "." + key), key);
      }
    for (const char* field : {"flops.model_causal", "flops.hardware", "tokens_per_s", "tflops_per_device"}) CHECK(explained.contains(field));
  }
}

TEST_CASE("days and cost follow from tokens and the price of a device") {
  const std::string dir = scratch("cost");
  const std::string what = "llama-3.1-8b --cluster 8xh100-80g-sxm --seq 8192 --tp 8 --runtime megatron-core";
  const Json row = estimate(what + " --tokens 100B --price 2", dir)["strategies"][0];
  const double days = row["days"], rate = row["tokens_per_s"];
  CHECK(days == doctest::Approx(1e11 / rate / 86400));
  CHECK(row["cost"].get<double>() == doctest::Approx(days * 24 * 8 * 2));
  CHECK(estimate(what + " --tokens 100B", dir)["strategies"][0]["cost"].is_null());  // no price: no cost, not zero
  CHECK(estimate(what + " --price 2", dir)["strategies"][0]["cost"].is_null());
  const ShellResult text = sh("\"$LLMPLAN\" estimate " + what + " --tokens 100B --price 2", dir);
  CHECK(text.out.find("device-hours") != std::string::npos);
  CHECK(sh("\"$LLMPLAN\" estimate tiny-1m --price -1", dir).exit == 2);
}

TEST_CASE("the peak of memory has a stage, a moment, and is the largest of its stages") {
  const std::string what = "llama-3.1-8b --cluster 2x8xh100-80g-sxm --tp 2 --pp 4 --zero 1 --runtime megatron-core", dir = scratch("peak");
  const Json row = estimate(what, dir)["strategies"][0];
  const Json& m = row["memory"];
  CHECK_FALSE(m["moment"].get<std::string>().empty());
  REQUIRE(row["memory_per_stage"].size() == 4);
  std::int64_t largest = 0;
  for (const Json& stage : row["memory_per_stage"]) largest = std::max(largest, stage["peak"].get<std::int64_t>());
  CHECK(m["peak"] == largest);
  CHECK(row["memory_per_stage"][m["peak_stage"].get<std::size_t>()]["peak"] == largest);
  const ShellResult text = sh("\"$LLMPLAN\" estimate " + what, dir);
  CHECK(text.out.find("the peak, " + m["moment"].get<std::string>()) != std::string::npos);
}

TEST_CASE("FLOPs by kind add up to those with recomputation") {
  for (const char* recompute : {"none", "selective", "full"}) {
    const Json f = estimate(std::string("llama-3.1-8b --cluster 8xh100-80g-sxm --tp 8 --seq 8192 --recompute ") + recompute, scratch("kinds"))["strategies"][0]["flops"];
    double sum = 0;
    for (const Json& part : f["by_kind"]) sum += part.get<double>();
    CHECK(sum == doctest::Approx(f["hardware"].get<double>()).epsilon(1e-12));
  }
}

TEST_CASE("an estimate carries an interval, what it rests on, and what of it nobody has measured") {
  const std::string dir = scratch("uncertainty");
  const Json row = estimate("llama-3.1-8b --cluster 8xh100-80g-sxm --seq 8192 --dp 8 --zero 1 --runtime megatron-core", dir)["strategies"][0];
  const Json& u = row["uncertainty"];
  CHECK(u["level"] == 0.8);
  REQUIRE(u["time"].is_number());
  const double step = row["time"]["step"], relative = u["time"];
  CHECK(u["time_interval"][0].get<double>() == doctest::Approx(step / (1 + relative)));
  CHECK(u["time_interval"][1].get<double>() == doctest::Approx(step * (1 + relative)));
  CHECK(u["memory_interval"][0].is_number_integer());
  CHECK(u["rows"]["time"].get<int>() >= 20);
  // 4,096 devices, and a device whose runs nobody has published for this software.
  const Json far = estimate("llama-3.1-405b --cluster 8192x8xh100-80g-sxm --seq 8192 --tp 8 --pp 8 --zero 1 --runtime megatron-core", dir)["strategies"][0]["uncertainty"];
  CHECK(far["outside"]["time"].dump().find("65536 devices; validated up to") != std::string::npos);
  const Json kunlun = estimate("llama-3.1-8b --cluster 8xkunlun-r300 --dp 8 --zero 1 --runtime megatron-core", dir)["strategies"][0]["uncertainty"];
  CHECK(kunlun["outside"]["time"].dump().find("no validated run of megatron-core on kunlun-r300") != std::string::npos);
  // llmplan's own program on a device that it has never run on: not known, and said so.
  const Json own = estimate("llama-3.1-8b --cluster 8xh100-80g-sxm --tp 8", dir)["strategies"][0]["uncertainty"];
  CHECK(own["time"].is_null());
  CHECK(own["time_interval"].is_null());
  CHECK(own["basis"]["time"].get<std::string>().find("no run of llmplan") != std::string::npos);
  const ShellResult text = sh("\"$LLMPLAN\" estimate llama-3.1-8b --cluster 8xh100-80g-sxm --seq 8192 --dp 8 --zero 1 --runtime megatron-core", dir);
  CHECK(text.out.find("4 of 5") != std::string::npos);
  CHECK(text.out.find("-1") == std::string::npos);  // what is not known is never shown as a number
}

TEST_CASE("an unknown architecture is counted from its safetensors index; activations are refused with the reason") {
  const std::string dir = scratch("unknown");
  sh("mkdir m", dir);
  write_text(dir + "/m/config.json", R"({"model_type": "hyena_9", "hidden_size": 4096, "torch_dtype": "bfloat16"})");
  write_text(dir + "/m/model.safetensors.index.json",
             R"({"metadata": {"total_size": 2000000000}, "weight_map": {"a.weight": "model-00001-of-00002.safetensors", "b.weight": "model-00002-of-00002.safetensors"}})");
  const ShellResult r = sh("\"$LLMPLAN\" estimate m --cluster 8xh100-80g-sxm", dir);
  CHECK(r.exit == 2);
  CHECK(r.err.find("E0203") != std::string::npos);
  CHECK(r.err.find("hyena_9") != std::string::npos);
  CHECK(r.err.find("activations are not available") != std::string::npos);
  // 2·10^9 bytes of bf16: 10^9 parameters; AdamW with an fp32 copy is 12 bytes each, shared by 8 under ZeRO-1.
  CHECK(r.out.find("1,000,000,000 parameters counted") != std::string::npos);
  CHECK(r.out.find("2,000,000,000") != std::string::npos);
  CHECK(r.out.find("12,000,000,000") != std::string::npos);
  CHECK(r.out.find("1,500,000,000") != std::string::npos);
  CHECK(r.out.find("activations, communication and time are not available") != std::string::npos);
  const ShellResult json = sh("\"$LLMPLAN\" estimate m --cluster 8xh100-80g-sxm --json", dir);
  CHECK(json.exit == 2);
  CHECK(Json::parse(json.out)["hint"].get<std::string>().find("1000000000") != std::string::npos);
  sh("rm m/model.safetensors.index.json", dir);
  const ShellResult bare = sh("\"$LLMPLAN\" estimate m --cluster 8xh100-80g-sxm", dir);
  CHECK(bare.exit == 2);
  CHECK(bare.out.empty());
}
