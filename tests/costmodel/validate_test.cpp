// Rows of a case file, from text to errors. Expected values are computed by hand beside each check.
#include "costmodel/validate.h"

#include <doctest/doctest.h>

#include <cmath>
#include <set>

#include "costmodel/error.h"
#include "costmodel/profiles/case_file.h"
#include "costmodel/profiles/profiles.h"
#include "costmodel/ranking.h"

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
  CHECK(code_of("id,gpu,metric,source,notes,dtype\nx,A100,bw,s,n,bf16\n") == "E0130");  // a table of something else
  CHECK(code_of("id,runtime,device,n_devices\na,b,c,1\n\"x,b,c,1\n", &line) == "E0130");  // swallows its rest
  CHECK(line == 3);
  CHECK(code_of("id,runtime,device,n_devices,id\n") == "E0131");
}

TEST_CASE("a row that cannot be read says why and costs no other row") {
  const ValidationData data = validation_data();
  for (const char* bad : {"eight", "8.5", "-8", "inf", "8 GPUs", "1e99", "1,23", "0x8"}) {
    CAPTURE(bad);
    const auto c = parse_cases(std::string("id,runtime,device,n_devices\nfirst,b,c,8\na,b,c,\"") + bad + "\"\nlast,b,c,8\n", "t.csv");
    REQUIRE(c.size() == 3);
    CHECK(c[0].problem == "");
    CHECK(c[1].problem.find(bad) != std::string::npos);
    CHECK(c[2].problem == "");
    const auto result = compare(c[1], data);
    REQUIRE(!result.empty());
    for (const Comparison& x : result) {
      CHECK(x.skipped);
      CHECK(x.reason.find("line 3") != std::string::npos);
    }
  }
  const auto c = parse_cases("id,runtime,device,n_devices\na,b,c\nb,b,c,8,9\nc,\"b\"x,c,8\nd,b,c,8", "t.csv");
  REQUIRE(c.size() == 4);
  CHECK(c[0].problem.find("3 cells, but 4 columns") != std::string::npos);
  CHECK(c[1].problem.find("5 cells") != std::string::npos);
  CHECK(c[2].problem.find("closing quote") != std::string::npos);
  CHECK(c[3].problem == "");
}

TEST_CASE("numbers are read as tables write them, and no number is a blank") {
  for (const auto& [text, value] : {std::pair{"1e3", 1000}, {"1,536", 1536}, {"1_048_576", 1048576}, {"8.0", 8}, {"True", 1}}) {
    CAPTURE(text);
    CHECK(parse_cases(std::string("id,runtime,device,n_devices\na,b,c,\"") + text + "\"\n", "t.csv")[0].n_devices == value);
  }
  for (const char* text : {"", "-", "n/a", "NaN", "None", "?"}) {
    const Case c = parse_cases(std::string("id,runtime,device,n_devices\na,b,c,") + text + "\n", "t.csv")[0];
    CHECK(c.problem == "");
    CHECK_FALSE(c.n_devices.has_value());
  }
  const Case c = parse_cases("id,runtime,device,peak_memory\na,b,c,75.5 GB?\n", "t.csv")[0];
  CHECK(*c.peak_memory == 75.5);
  CHECK(c.memory_unit == "GB?");
}

TEST_CASE("an unknown column is not read and noted with its nearest neighbour") {
  std::vector<std::string> notes;
  const auto c = parse_cases("id,Runtime,device,n_devices,hiden,our_own_remark\na,b,c,8,4096,x\n", "t.csv", &notes);
  REQUIRE(c.size() == 1);
  CHECK(c[0].problem == "");
  CHECK(c[0].runtime == "b");
  REQUIRE(notes.size() == 2);
  CHECK(notes[0].find("hidden") != std::string::npos);
  CHECK(notes[1].find("our_own_remark") != std::string::npos);
}

// As other people's tables look: odd names, numbers, words and gaps. Every row gives every metric it must,
// predicted or with its reason, and what can be read as a run is predicted.
TEST_CASE("every row of an odd table is predicted or skipped with its own reason") {
  const std::string header = "id,source,runtime,device,model,layers,hidden,heads,kv_heads,ffn,mlp,vocab,seq,n_experts,top_k,moe_ffn,"
                             "n_devices,devices_per_node,fabric,tp,pp,vpp,cp,ep,dp,zero,sp,schedule,global_batch,micro_batch,recompute,"
                             "attention,precision,step_time_s,peak_memory,memory_unit,memory_kind,outcome,extra\r\n";
  struct Odd { const char* row; const char* reason; };  // reason: part of it; "": predicted
  const Odd odd[] = {
      {"dense,megatron-core,H100-80GB-HBM3,m,32,4096,32,8,14336,swiglu,128256,8192,,,,8,8,,1,1,1,1,1,8,1,0,,128,1,none,flash,bf16", ""},
      {"nvidia,megatron-lm,NVIDIA A100_80GB,m,32,4096,32,8,14336,SwiGLU,128256,4096,,,,1e1,2,,1,2,,,,5,1,0,1F1B,160,1,none,FA2,bfloat16", ""},
      {"bare,torchtitan,b200,m,32,4096,32,8,14336,swiglu,128256,8192,,,,8,8,,1,1,,,,,3,0,,8,1,selective,sdpa,fp8 (tensorwise)", ""},
      {"some layers,megatron-core,h100,m,32,4096,32,8,14336,swiglu,128256,8192,,,,8,8,,1,2,,,,4,1,0,1f1b,128,1,4 layers,flash,mxfp8", ""},
      {"moe,megatron-core,h100,m,24,2048,16,16,,swiglu,151936,4096,64,4,1408,8,8,,1,1,,,8,8,1,0,,64,1,none,flash,bf16", ""},
      {"afab,nanotron,h100,m,16,2048,16,16,8192,swiglu,32768,4096,,,,8,8,,1,4,,,,2,1,0,AFAB,64,1,none,flash,bf16", ""},
      {"interleaved,megatron-core,h100,m,32,4096,32,8,14336,swiglu,128256,4096,,,,8,8,,1,4,2,,,2,1,0,Interleaved1F1B,64,1,none,flash,bf16", ""},
      {"no top_k,megatron-core,h100,m,24,2048,16,16,5632,swiglu,50000,4096,48,,1408,8,8,,1,1,,,8,8,1,0,,64,1,none,flash,bf16", "'top_k' is blank"},
      {"ep alone,megatron-core,h100,m,24,2048,16,16,5632,swiglu,50000,4096,,,,8,8,,1,1,,,8,8,1,0,,64,1,none,flash,bf16", "'n_experts' is blank"},
      {"tp 3,megatron-core,h100,m,32,4096,32,8,14336,swiglu,128256,8192,,,,6,6,,3,1,,,,2,1,0,,128,1,none,flash,bf16", "tp=3"},
      {"nvfp4,megatron-core,h100,m,32,4096,32,8,14336,swiglu,128256,8192,,,,8,8,,1,1,,,,8,1,0,,128,1,none,flash,nvfp4", "nvfp4"},
      {"new software,zeppelin,h100,m,32,4096,32,8,14336,swiglu,128256,8192,,,,8,8,,1,1,,,,8,1,0,,128,1,none,flash,bf16", "zeppelin"},
      {"new device,megatron-core,abacus-9000,m,32,4096,32,8,14336,swiglu,128256,8192,,,,8,8,,1,1,,,,8,1,0,,128,1,none,flash,bf16", "abacus"},
      {"two sizes,megatron-core,v100,m,32,4096,32,8,14336,swiglu,128256,8192,,,,8,8,,1,1,,,,8,1,0,,128,1,none,flash,fp16", "v100"},
      {"dualpipe,megatron-core,h100,m,32,4096,32,8,14336,swiglu,128256,8192,,,,8,8,,1,2,,,,4,1,0,DualPipe,128,1,none,flash,bf16", "dualpipe"},
      {"odd number,megatron-core,h100,m,32,4096,32,8,14336,swiglu,128256,8192,,,,eight,8,,1,1,,,,8,1,0,,128,1,none,flash,bf16", "'eight'"},
      {"batch,megatron-core,h100,m,32,4096,32,8,14336,swiglu,128256,8192,,,,8,8,,1,1,,,,8,1,0,,100,3,none,flash,bf16", "100"},
      {"huge,megatron-core,h100,m,1000000000000,4096,32,8,14336,swiglu,128256,8192,,,,8,8,,1,1,,,,8,1,0,,128,1,none,flash,bf16", "layers"},
      {"zero,megatron-core,h100,m,32,4096,32,8,14336,swiglu,128256,0,,,,8,8,,1,1,,,,8,1,0,,128,1,none,flash,bf16", "seq"},
      {"nothing,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,", "'runtime' is blank"},
  };
  const ValidationData data = validation_data();
  std::string text = "\xef\xbb\xbf" + header;
  for (const Odd& o : odd) {
    const std::string row = o.row;
    const std::size_t comma = row.find(',');
    text += "\"" + row.substr(0, comma) + "\",\"a \"\"source\"\", quoted\"" + row.substr(comma) + ",1.25,70,GB?,peak,ok,x\r\n";
  }
  std::vector<std::string> notes;
  const auto rows = parse_cases(text, "odd.csv", &notes);
  REQUIRE(rows.size() == std::size(odd));
  CHECK(notes.size() == 1);  // "extra"
  for (std::size_t i = 0; i < rows.size(); ++i) {
    CAPTURE(std::string(odd[i].row));
    CHECK(rows[i].source == "a \"source\", quoted");
    const auto result = compare(rows[i], data);
    const std::string wanted = odd[i].reason;
    for (const char* metric : {"step_time", "peak_memory", "oom"}) {
      const Comparison& c = only(result, metric);
      CAPTURE(c.reason);
      CHECK(c.skipped == !wanted.empty());
      if (c.skipped) CHECK(c.reason.find(wanted) != std::string::npos);
      else CHECK((c.predicted >= 0 && std::isfinite(c.predicted)));
    }
    if (wanted.empty()) CHECK(only(result, "step_time").predicted > 0);
  }
}

TEST_CASE("other names of devices and runtimes lead to profiles that exist") {
  const ValidationData data = validation_data();
  for (const auto& [alias, device] : data.device_aliases) {
    CAPTURE(alias);
    CHECK(data.cluster(device, 1, 1).device.name == device);
    CHECK(resolve(alias, data.device_aliases) == device);
  }
  for (const auto& [alias, runtime] : data.runtime_aliases) {
    CAPTURE(alias);
    CHECK(data.runtime(runtime).name == runtime);
  }
  CHECK(resolve("NVIDIA H100_80GB HBM3", data.device_aliases) == "h100-80g-sxm");
  CHECK(resolve("h100-80g-sxm", data.device_aliases) == "h100-80g-sxm");
  CHECK(resolve("something else", data.device_aliases) == "something else");
}

TEST_CASE("regret is what the strategy predicted fastest costs beyond the fastest one") {
  const auto run = [](const char* problem, const char* strategy, double measured, double predicted) {
    Comparison c{strategy, "s", "r", "d", "step_time", measured, predicted, predicted / measured - 1, false, true, "", problem, strategy};
    return c;
  };
  // Chosen b (10.5) instead of a (10); of the two runs of c, the faster one counts. q has one strategy: no choice.
  const auto r = rankings({run("p", "a", 10, 12), run("p", "b", 10.5, 11), run("p", "c", 20, 20), run("p", "c", 19, 20),
                           run("q", "a", 5, 1), run("q", "a", 6, 2), run("t", "a", 4, 3), run("t", "b", 5, 3), run("t", "c", 9, 8)}, "source");
  REQUIRE(r.size() == 2);
  CHECK(r[0].rows == 3);
  CHECK(r[0].chosen == "b");
  CHECK(r[0].best == "a");
  CHECK(r[0].regret == doctest::Approx(0.05));
  CHECK(r[0].tau == doctest::Approx(1.0 / 3));  // pairs: a-b otherwise, a-c and b-c alike
  CHECK(r[1].regret == doctest::Approx(0.25));  // equal predictions: the slower of them
  const auto s = summarize(r);
  REQUIRE(s.size() == 1);
  CHECK(s[0].problems == 2);
  CHECK(s[0].mean_regret == doctest::Approx(0.15));
  CHECK(s[0].max_regret == doctest::Approx(0.25));
  CHECK(s[0].best_chosen == 0);
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
  CHECK(reason([](Case& c) { c.step_time_s = 0; }) == "the measured time or rate is not positive");
  CHECK(reason([](Case& c) { c.step_time_s.reset(), c.tokens_per_s_per_device = 0; }) == "the measured time or rate is not positive");
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
    return Comparison{"", source, "r", "d", "step_time", 1, 1 + error, error, skipped, headline, "", "", ""};
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
