// Rows of a case file, from text to errors. Expected values are computed by hand beside each check.
#include "costmodel/validate.h"

#include <doctest/doctest.h>

#include <cmath>
#include <set>

#include "costmodel/error.h"
#include "costmodel/profiles/case_file.h"
#include "costmodel/profiles/profiles.h"

namespace llmplan {
namespace {

const char* const kHeader =
    "id,source,runtime,device,model,layers,hidden,heads,ffn,mlp,vocab,seq,n_devices,devices_per_node,fabric,tp,pp,dp,"
    "zero,sp,global_batch,micro_batch,recompute,attention,precision,step_time_s,tokens_per_s_per_device,"
    "tflops_per_device,tflops_convention,peak_memory,memory_unit,memory_kind,outcome,quality,notes\n";
// 8 devices of one node, tp 8, GPT-22B of Korthikanti et al. 2022.
std::string row(const std::string& id, const std::string& tail, const std::string& quality = "published") {
  return id + ",s,megatron-lm-2022,a100-80g-sxm,GPT,48,6144,64,24576,gelu,51200,2048,8,8,,8,1,1,0,1,4,4,selective,"
              "unfused,fp16," + tail + ",ok," + quality + ",\n";
}
std::vector<Case> cases(const std::string& body) { return parse_cases(kHeader + body, "t.csv"); }

std::string code_of(const std::string& text, int* line = nullptr) {
  try {
    parse_cases(text, "t.csv");
  } catch (const Error& e) {
    if (line) *line = e.location.line;
    return e.code;
  }
  return "";
}

const Comparison& only(const std::vector<Comparison>& all, const std::string& metric) {
  const Comparison* found = nullptr;
  for (const Comparison& c : all)
    if (c.metric == metric) {
      REQUIRE(found == nullptr);
      found = &c;
    }
  REQUIRE(found != nullptr);
  return *found;
}

TEST_CASE("quoted cells hold commas, quotes and line breaks, and the line count goes on after them") {
  const auto c = parse_cases(
      "id,runtime,device,n_devices,notes,fabric\r\n"
      "a,x,d,8,\"one, \"\"two\"\"\nthree\",\n"
      "\n"
      "b,x,d,16,,\"8x200Gb/s\"\n", "t.csv");
  REQUIRE(c.size() == 2);
  CHECK(c[0].notes == "one, \"two\"\nthree");
  CHECK(c[0].line == 2);
  CHECK(c[1].line == 5);
  CHECK(*c[1].n_devices == 16);
  CHECK(c[1].fabric == "8x200Gb/s");
  CHECK_FALSE(c[0].layers.has_value());
}

TEST_CASE("a case file that is not one is refused with the line") {
  int line = 0;
  CHECK(code_of("a,b,c\n1,2,3\n") == "E0130");
  CHECK(code_of("") == "E0130");
  CHECK(code_of("id,runtime,device,n_devices\na,b,c\n", &line) == "E0130");
  CHECK(line == 2);
  CHECK(code_of("id,runtime,device,n_devices\na,b,c,1\n\"x,b,c,1\n", &line) == "E0130");
  CHECK(line == 3);
  CHECK(code_of("id,runtime,device,n_devices,lairs\n") == "E0131");
  CHECK(code_of("id,runtime,device,n_devices,id\n") == "E0131");
  for (const char* bad : {"eight", "8.5", "-8", "nan", "inf", "8 GPUs", "1e99"}) {
    CAPTURE(bad);
    CHECK(code_of(std::string("id,runtime,device,n_devices\nok,b,c,8\na,b,c,") + bad + "\n", &line) == "E0132");
    CHECK(line == 3);
  }
}

TEST_CASE("a misspelt column names its nearest neighbour") {
  try {
    parse_cases("id,runtime,device,n_devices,hiden\n", "t.csv");
    FAIL("accepted");
  } catch (const Error& e) {
    CHECK(e.hint.find("hidden") != std::string::npos);
  }
}

TEST_CASE("a network's words give the bandwidth of one device") {
  const auto gb = [](const char* text, std::int64_t per_node) { return fabric_bandwidth(text, per_node)->value / 1e9; };
  CHECK(gb("8x200Gb/s HDR IB (Selene)", 8) == doctest::Approx(25));
  CHECK(gb("4x100Gb/s RoCE", 8) == doctest::Approx(6.25));
  CHECK(gb("1600 Gb/s RoCE per node (stated in later revision of the same table)", 8) == doctest::Approx(25));
  CHECK(gb("800 Gb/s per node (vTrain config inter_node_bandwidth=800)", 8) == doctest::Approx(12.5));
  CHECK(gb("400Gb/s per GPU RDMA (backend)", 8) == doctest::Approx(50));
  CHECK(gb("100Gb/s IB", 4) == doctest::Approx(3.125));
  CHECK(gb("50 GB/s per GPU", 8) == doctest::Approx(50));
  CHECK_FALSE(fabric_bandwidth("", 8).has_value());
  CHECK_FALSE(fabric_bandwidth("InfiniBand HDR", 8).has_value());
}

TEST_CASE("time comes from the step, else from tokens/s, else from TFLOP/s in the source's convention") {
  const ValidationData data = validation_data();
  const auto all = cases(row("step", "1.25,999,999,,,,") + row("tokens", ",1000,999,,,,") +
                         row("model", ",,140,model,,,") + row("hardware", ",,140,hardware_with_recompute,,,"));
  std::vector<double> measured;
  for (const Case& c : all) measured.push_back(only(compare(c, data), "step_time").measured);
  CHECK(measured[0] == 1.25);
  CHECK(measured[1] == doctest::Approx(4 * 2048 / 1000.0 / 8));
  // Korthikanti et al. 2022: 72·B·s·l·h²·(1 + s/6h + V/12lh); Narayanan et al. 2021: 96·B·s·l·h²·(1 + s/6h + V/16lh).
  const double b = 4, s = 2048, l = 48, h = 6144, v = 51200;
  CHECK(measured[2] == doctest::Approx(72 * b * s * l * h * h * (1 + s / (6 * h) + v / (12 * l * h)) / (8 * 140e12)));
  CHECK(measured[3] == doctest::Approx(96 * b * s * l * h * h * (1 + s / (6 * h) + v / (16 * l * h)) / (8 * 140e12)));
}

TEST_CASE("MFU is turned into time without recomputation, whatever else the source counts") {
  // Megatron-LM's README: GPT-22B with selective recomputation, MFU 41.5 %; Korthikanti et al. 2022: 1.10 s.
  const ValidationData data = validation_data();
  Case c = cases(row("mfu", ",,,,,,"))[0];
  c.mfu = 0.415;
  CHECK(only(compare(c, data), "step_time").measured == doctest::Approx(1.10).epsilon(0.01));
  c.tflops_convention = "hardware_with_recompute";
  CHECK(only(compare(c, data), "step_time").measured == doctest::Approx(1.10).epsilon(0.01));
}

TEST_CASE("memory that a source calculated is no run, so it neither fits nor fails") {
  const auto result = compare(cases(row("a", ",,,,60,GiB,analytical params_opt+act"))[0], validation_data());
  for (const Comparison& c : result) {
    CHECK(c.metric != "oom");
    CHECK(c.skipped);
  }
}

TEST_CASE("6N + 12Lhs counts what llm-foundry and torchtitan count") {
  const ValidationData data = validation_data();
  auto c = cases(row("a", "1,,,,,,"))[0];
  const Setup s = std::get<Setup>(set_up(c, data));
  const double n = static_cast<double>(parameters(s.model)), tokens = 4 * 2048.0;
  CHECK(counted_flops(FlopsConvention::six_n, s.model, s.workload, s.strategy).value ==
        doctest::Approx(tokens * (6 * n + 12.0 * 48 * 6144 * 2048)));
  ModelConfig untied = s.model;
  untied.tie_word_embeddings = false;  // torchtitan leaves the embedding table out
  const double table = 51200.0 * 6144;
  CHECK(counted_flops(FlopsConvention::six_n_no_embedding, untied, s.workload, s.strategy).value ==
        doctest::Approx(tokens * (6 * (static_cast<double>(parameters(untied)) - table) + 12.0 * 48 * 6144 * 2048)));
}

TEST_CASE("error is predicted/measured - 1, of step time and of memory in the stated unit") {
  const ValidationData data = validation_data();
  const auto result = compare(cases(row("a", "2,,,,40,GiB,allocated"))[0], data);
  const Comparison& time = only(result, "step_time");
  CHECK(time.predicted > 0);
  CHECK(time.error == doctest::Approx(time.predicted / 2 - 1));
  const Comparison& memory = only(result, "peak_memory");
  CHECK(memory.measured == 40.0 * (1 << 30));
  CHECK(memory.error == doctest::Approx(memory.predicted / memory.measured - 1));
  const auto decimal = compare(cases(row("a", "2,,,,40,GB,allocated"))[0], data);
  CHECK(only(decimal, "peak_memory").measured == 40e9);
}

TEST_CASE("what a row does not say and the runtime does not document is a reason, never a guess") {
  const ValidationData data = validation_data();
  const auto reason = [&](auto&& change) {
    Case c = cases(row("a", "2,,,,,,"))[0];
    change(c);
    const Comparison r = only(compare(c, data), "step_time");
    return r.skipped ? r.reason : "";
  };
  CHECK(reason([](Case&) {}) == "");
  CHECK(reason([](Case& c) { c.layers.reset(); }) == "'layers' is blank");
  CHECK(reason([](Case& c) { c.global_batch.reset(); }) == "'global_batch' is blank");
  CHECK(reason([](Case& c) { c.micro_batch.reset(); }) == "'micro_batch' is blank");
  CHECK(reason([](Case& c) { c.tp.reset(); }) == "'tp' is blank");
  CHECK(reason([](Case& c) { c.runtime = "zebra"; }).find("zebra") != std::string::npos);
  CHECK(reason([](Case& c) { c.device = "abacus"; }).find("abacus") != std::string::npos);
  CHECK(reason([](Case& c) { c.precision = "nvfp4"; }).find("nvfp4") != std::string::npos);
  CHECK(reason([](Case& c) { c.mla = 1; }).find("latent") != std::string::npos);
  CHECK(reason([](Case& c) { c.dp = 3; }).find("n_devices") != std::string::npos);
  CHECK(reason([](Case& c) { c.heads = 7, c.hidden = 100; }) != "");
  CHECK(reason([](Case& c) { c.step_time_s.reset(); }) == "no time is measured");
  // Documented defaults: Megatron's GPT has ungated MLPs four times as wide, and runs in fp16.
  CHECK(reason([](Case& c) { c.ffn.reset(), c.mlp = c.precision = ""; }) == "");
}

TEST_CASE("a failed run is a case of its own and has no time") {
  const ValidationData data = validation_data();
  Case c = cases(row("a", ",,,,,,"))[0];
  c.outcome = "oom";
  c.micro_batch = 4;
  const auto fails = compare(c, data);
  CHECK(fails.size() == 1);
  CHECK(only(fails, "oom").measured == 1);
  c.outcome = "ok";
  c.step_time_s = 1;
  c.global_batch = c.micro_batch = 512;  // 22 billion parameters and a million tokens at once on 80 GB
  const auto wrong = compare(c, data);
  CHECK(only(wrong, "oom").measured == 0);
  CHECK(only(wrong, "oom").predicted == 1);
  CHECK(only(wrong, "oom").error == 1);
}

TEST_CASE("summaries count the sound rows, and say how many they skip and leave out") {
  const auto entry = [](const char* source, double error, bool skipped = false, bool headline = true) {
    return Comparison{"", source, "r", "d", "step_time", 1, 1 + error, error, skipped, headline, ""};
  };
  const auto s = summarize({entry("a", 0.1), entry("a", -0.3), entry("a", 0.2), entry("a", 9, false, false),
                            entry("a", 0, true), entry("b", -0.5)}, "source");
  REQUIRE(s.size() == 3);  // a, b, all
  CHECK(s[0].n == 3);
  CHECK(s[0].skipped == 1);
  CHECK(s[0].left_out == 1);
  CHECK(s[0].mape == doctest::Approx(0.2));
  CHECK(s[0].median_ape == doctest::Approx(0.2));
  CHECK(s[0].p90_ape == doctest::Approx(0.3));
  CHECK(s[0].max_ape == doctest::Approx(0.3));
  CHECK(s[0].bias == doctest::Approx(0));
  CHECK(s[2].group == "all");
  CHECK(s[2].n == 4);
  CHECK(summarize({entry("a", 0.1), entry("b", 0.1)}, "runtime").size() == 1);
}

TEST_CASE("every runtime that case files name has documented defaults") {
  const auto blank = read_blank_cells();
  for (const char* name : {"megatron-lm-2021", "megatron-lm-2022", "megatron-core", "megatron-deepspeed",
                           "deepspeed-pipeline", "deepspeed-zero", "fsdp1", "fsdp2", "nanotron", "internevo",
                           "hf-eager", "jax-fsdp", "llmq", "llmplan"}) {
    CAPTURE(name);
    CHECK(blank.count(name) == 1);
  }
}

}  // namespace
}  // namespace llmplan
