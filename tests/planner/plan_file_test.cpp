#include "planner/plan_file.h"

#include <doctest/doctest.h>

#include <nlohmann/json.hpp>

#include <string>

#include "costmodel/error.h"
#include "planner/build.h"
#include "planner/plan_fields.h"
#include "planner/schedule.h"
#include "plans.h"

using namespace llmplan;

namespace {

// A plan in which no field is at its default, so that a field that is lost shows.
Plan full_plan() {
  Strategy s;
  s.tp = 2, s.pp = 2, s.dp = 2, s.zero = 1, s.sp = true, s.micro_batch = 2;
  s.recompute = Recompute::full, s.recompute_layers = 1, s.layers_per_stage = {3, 1};
  Plan p = tiny_plan(s, 3);
  p.model.rope_theta = 500000;
  p.model.rms_norm_eps = 1e-6;
  p.model.rope_scaling = {"llama3", 32.0, 1.5, 3.25, 4096};
  p.model.tie_word_embeddings = true;
  p.cluster.device.peak = {{DType::fp32, {1.0 / 3 * 1e12}}, {DType::bf16, {989.4e12}}};
  p.cluster.device.gemm_efficiency = {{{1e6, 0.1}, {3.3e9, 0.7}}};
  p.cluster.device.measured = {{Gemm{8, 16, 24, true, false, true, DType::bf16, DType::fp32}, 2, 1, {1.25e-5}},
                               {Collective{Collective::Kind::reduce_scatter, Axis::dp, {4096}, DType::fp32}, 4, 1, {3e-6}},
                               {RmsNorm{4, 8, true, 1e-5, DType::fp32}, 1, 2, {1e-7}},
                               {Send{1, {77}}, 2, 1, {9e-7}}};
  p.cluster.device.price_per_hour = 2.5;
  p.workload.tokens = 100'000'000'000;
  p.workload.seed = 18446744073709551615u;
  p.workload.optimizer.lr = 6e-4;
  p.workload.optimizer.loss_scale = 1024, p.workload.optimizer.loss_scale_window = 17;
  p.workload.documents = true;
  p.prediction = {{0.1 + 0.2}, 1e5 / 3, 0.25, -1, {123456789}, {223456789}};
  p.digest = digest(build(p).programs);
  return p;
}

bool same(const Plan& a, const Plan& b) {
  return a.model == b.model && a.cluster == b.cluster && a.workload == b.workload && a.strategy == b.strategy &&
         a.digest == b.digest && a.prediction.step == b.prediction.step &&
         a.prediction.tokens_per_s == b.prediction.tokens_per_s &&
         a.prediction.tflops_per_device == b.prediction.tflops_per_device && a.prediction.mfu == b.prediction.mfu &&
         a.prediction.arena == b.prediction.arena && a.prediction.peak_memory == b.prediction.peak_memory;
}

struct Refusal { std::string code, message, hint; int line = 0; };
Refusal refusal(const std::string& text) {
  try {
    plan_from_json(text, "plan.json");
  } catch (const Error& e) {
    CHECK_FALSE(e.hint.empty());
    CHECK(e.exit == Exit::usage);
    CHECK(e.location.file == "plan.json");
    return {e.code, e.message, e.hint, e.location.line};
  }
  return {"none", "", "", 0};
}

// The text with the first `from` replaced; the test fails if there is none.
std::string with(std::string text, const std::string& from, const std::string& to) {
  const std::size_t at = text.find(from);
  REQUIRE_MESSAGE(at != std::string::npos, from);
  return text.replace(at, from.size(), to);
}

int line_of(const std::string& text, const std::string& what) {
  const std::size_t at = text.find(what);
  return 1 + static_cast<int>(std::count(text.begin(), text.begin() + static_cast<std::ptrdiff_t>(at), '\n'));
}

}  // namespace

TEST_CASE("a plan survives the file exactly, and its text does not change when it is written again") {
  const Plan plan = full_plan();
  const std::string text = to_json(plan);
  const Plan back = plan_from_json(text, "plan.json");
  CHECK(same(plan, back));
  CHECK(to_json(back) == text);
  const auto json = nlohmann::json::parse(text);  // an independent parser takes it as JSON
  CHECK(json["schema"] == "llmplan.plan/1");
  CHECK(json["workload"]["seed"] == 18446744073709551615u);
  CHECK(json["prediction"]["mfu"].is_null());
  CHECK(json["strategy"]["layers_per_stage"] == nlohmann::json{3, 1});
  CHECK(json["compute_order"][1] == "F0 B0 F1 B1 F2 B2");
}

TEST_CASE("the file holds every field of the structs that make up a plan") {
  using plan_file::complete;
  CHECK(complete<RopeScaling>);
  CHECK(complete<ModelConfig>);
  CHECK(complete<Device>);
  CHECK(complete<Contention>);
  CHECK(complete<Link>);
  CHECK(complete<Cluster>);
  CHECK(complete<Optimizer>);
  CHECK(complete<Workload>);
  CHECK(complete<Offload>);
  CHECK(complete<Strategy>);
  CHECK(complete<Prediction>);
}

TEST_CASE("every strategy of the grid survives the file") {
  for (Strategy s : strategy_grid()) {
    s.layers_per_stage = layer_split(s, 4);
    Plan plan = tiny_plan(s, 2);
    plan.digest = digest(build(plan).programs);
    CHECK(same(plan, plan_from_json(to_json(plan), "plan.json")));
  }
}

TEST_CASE("white space is no edit") {
  const Plan plan = full_plan();
  CHECK(same(plan, plan_from_json(nlohmann::ordered_json::parse(to_json(plan)).dump(), "plan.json")));
}

TEST_CASE("a plan that can only be estimated has no compute order and no digest, and survives the file") {
  Strategy s;
  s.dp = 2, s.zero = 3, s.layers_per_stage = {4};
  const Plan plan = tiny_plan(s);
  const std::string text = to_json(plan);
  CHECK(same(plan, plan_from_json(text, "plan.json")));
  CHECK(refusal(with(text, "\"digest\": \"\"", "\"digest\": \"0123456789abcdef\"")).code == "E0335");
}

TEST_CASE("another document is not a plan, another version is named") {
  const std::string text = to_json(full_plan());
  CHECK(refusal(with(text, "llmplan.plan/1", "llmplan.report/1")).code == "E0330");
  CHECK(refusal("{}").code == "E0330");
  CHECK(refusal("[1, 2]").code == "E0330");
  CHECK(refusal("{\"schema\": 1}").code == "E0330");
  CHECK(refusal(with(text, "llmplan.plan/1", "llmplan.plan/one")).code == "E0330");
  const Refusal older = refusal(with(text, "llmplan.plan/1", "llmplan.plan/0"));
  CHECK(older.code == "E0331");
  CHECK(older.hint.find("older") != std::string::npos);
  CHECK(older.line == 2);
  CHECK(refusal(with(text, "llmplan.plan/1", "llmplan.plan/2")).hint.find("newer") != std::string::npos);
}

TEST_CASE("a damaged plan is refused with the line") {
  const std::string text = to_json(full_plan());
  const auto damaged = [&](const std::string& from, const std::string& to) {
    const Refusal r = refusal(with(text, from, to));
    CAPTURE(from);
    CHECK(r.code == "E0332");
    CHECK(r.line == line_of(text, from));
    CHECK(r.hint.find("llmplan tune") != std::string::npos);
    return r.message;
  };
  CHECK(refusal("").code == "E0332");
  CHECK(refusal(text.substr(0, text.size() / 2)).code == "E0332");
  CHECK(refusal(text + "}").code == "E0332");
  CHECK(damaged("\"vocab_size\": 320,", "\"vocab_size\": ,").find("JSON") != std::string::npos);
  CHECK(damaged("\"vocab_size\": 320,", "\"vocab_siez\": 320,").find("vocab_siez") != std::string::npos);
  CHECK(damaged("\"vocab_size\": 320,", "\"vocab_size\": \"320\",").find("vocab_size") != std::string::npos);
  CHECK(damaged("\"vocab_size\": 320,", "\"vocab_size\": 320.5,").find("vocab_size") != std::string::npos);
  CHECK(damaged("\"vocab_size\": 320,", "\"vocab_size\": 1e400,").find("vocab_size") != std::string::npos);
  CHECK(damaged("\"vocab_size\": 320,", "\"vocab_size\": null,").find("vocab_size") != std::string::npos);
  CHECK(damaged("\"schedule\": \"1f1b\"", "\"schedule\": \"2f2b\"").find("2f2b") != std::string::npos);
  CHECK(damaged("\"sp\": true", "\"sp\": \"yes\"").find("sp") != std::string::npos);
  CHECK(damaged("\"seed\": 18446744073709551615", "\"seed\": 18446744073709551616").find("seed") != std::string::npos);
  CHECK(damaged("\"op\": \"gemm\"", "\"op\": \"gemmm\"").find("gemmm") != std::string::npos);
  const Refusal missing = refusal(with(text, "\"vocab_size\": 320,", ""));
  CHECK(missing.code == "E0332");
  CHECK(missing.message.find("vocab_size") != std::string::npos);
  const Refusal twice = refusal(with(text, "\"vocab_size\": 320,", "\"vocab_size\": 320, \"vocab_size\": 320,"));
  CHECK(twice.message.find("twice") != std::string::npos);
  for (const char* section : {"model", "cluster", "workload", "strategy", "compute_order", "prediction", "digest", "checksums"}) {
    auto json = nlohmann::ordered_json::parse(text);
    json.erase(section);
    CHECK(refusal(json.dump()).code == "E0332");
  }
}

TEST_CASE("contradictions are named before anything else") {
  const std::string text = to_json(full_plan());
  const auto contradicts = [&](const std::string& from, const std::string& to) {
    const Refusal r = refusal(with(text, from, to));
    CHECK(r.code == "E0333");
    CHECK(r.line > 0);
    return r.message;
  };
  CHECK(contradicts("\"layers_per_stage\": [3,1]", "\"layers_per_stage\": [3,2]").find("adds up to 5") != std::string::npos);
  CHECK(contradicts("\"layers_per_stage\": [3,1]", "\"layers_per_stage\": [4]").find("1 entries") != std::string::npos);
  CHECK(contradicts("\"layers_per_stage\": [3,1]", "\"layers_per_stage\": []").find("empty") != std::string::npos);
  CHECK(contradicts("\"tp\": 2", "\"tp\": 3").find("tp=3") != std::string::npos);
  CHECK(contradicts("\"head_dim\": 12", "\"head_dim\": -12").size() > 0);
  CHECK(contradicts("F0 B0 F1 B1 F2 B2", "F0 B0 F1 F2 B1 B2").find("slot 4 is F2, 1f1b has B1") != std::string::npos);
  CHECK(contradicts("F0 B0 F1 B1 F2 B2", "F0 B0 F1 B1 F2").find("slot 6 is missing, 1f1b has B2") != std::string::npos);
  CHECK(contradicts(",\"F0 B0 F1 B1 F2 B2\"", "").size() > 0);
}

TEST_CASE("an edit that is consistent is still found, and its section named") {
  const std::string text = to_json(full_plan());
  const auto edited = [&](const std::string& from, const std::string& to, const char* section) {
    const Refusal r = refusal(with(text, from, to));
    CHECK(r.code == "E0334");
    CHECK(r.message.find(section) == 0);
    CHECK(r.line == line_of(text, "\"" + std::string(section) + "\": {"));
  };
  edited("\"vocab_size\": 320", "\"vocab_size\": 322", "model");
  edited("\"lr\": 0.0006", "\"lr\": 0.0007", "workload");
  edited("\"price_per_hour\": 2.5", "\"price_per_hour\": 2.25", "cluster");
  edited("\"recompute_layers\": 1", "\"recompute_layers\": 2", "strategy");
  edited("\"arena_bytes\":123456789", "\"arena_bytes\":123456788", "prediction");
}

TEST_CASE("a program other than the predicted one is refused") {
  const Plan plan = full_plan();
  Plan other = plan;
  other.digest = "0123456789abcdef";
  const Refusal r = refusal(to_json(other));
  CHECK(r.code == "E0335");
  CHECK(r.message.find(plan.digest) != std::string::npos);
  CHECK(r.message.find("0123456789abcdef") != std::string::npos);
}

TEST_CASE("2,000 randomly broken plans are refused with a plan's code, or read as the same plan") {
  const Plan plan = full_plan();
  const std::string text = to_json(plan);
  std::uint64_t state = 1;
  const auto random = [&](std::size_t below) {  // Knuth's MMIX generator
    state = state * 6364136223846793005u + 1442695040888963407u;
    return static_cast<std::size_t>((state >> 33) % below);
  };
  int refused = 0, same_plan = 0;
  for (int round = 0; round < 2000; ++round) {
    std::string broken = text;
    const std::size_t at = random(text.size());
    switch (random(4)) {
      case 0: broken[at] = static_cast<char>(32 + random(95)); break;
      case 1: broken.erase(at, 1 + random(20)); break;
      case 2: broken.insert(at, 1, "0123456789-,:\"{}[]ent."[random(22)]); break;
      case 3: broken.insert(at, text, random(text.size()), random(30)); break;
    }
    try {
      const Plan read = plan_from_json(broken, "plan.json");
      CHECK(same(plan, read));
      ++same_plan;
    } catch (const Error& e) {
      if (e.code.compare(0, 4, "E033") != 0) FAIL_CHECK(e.code << ": " << e.message);
      ++refused;
    }
  }
  CHECK(refused > 1500);
  CHECK(same_plan > 0);  // white space, or a digit that stands for the same number
}
