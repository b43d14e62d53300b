// Bad input: each row is refused with this code, at this line and column, with something to do
// next.
#include <doctest/doctest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <random>

#include "costmodel/error.h"
#include "costmodel/profiles/calibration.h"
#include "costmodel/profiles/devices.h"
#include "costmodel/profiles/model_fields.h"
#include "costmodel/profiles/node.h"
#include "costmodel/profiles/profiles.h"

using namespace llmplan;

namespace {

enum Reader { model, device, cluster, measured, config };

struct Row {
  Reader reader;
  const char* text;
  const char* code;
  int line, column;
  const char* says;  // a part of the message or the hint
};

void read(Reader reader, const std::string& text) {
  switch (reader) {
    case model:
      parse_model(text, "t.yaml");
      return;
    case device:
      read_device_file(parse_yaml(text, "t.yaml"));
      return;
    case measured:
      read_measured(parse_yaml(text, "t.yaml"));
      return;
    case config:
      read_model_config(parse_json(text, "config.json"), false, "t");
      return;
    case cluster: {
      const std::string path =
          (std::filesystem::temp_directory_path() / "llmplan_malformed.yaml").string();
      std::ofstream(path, std::ios::binary) << text;
      struct Remove {
        const std::string& p;
        ~Remove() { std::filesystem::remove(p); }
      } remove{path};
      read_cluster(path);
      return;
    }
  }
}

#define LLAMA                                                                                      \
  "model_type: llama\nhidden_size: 64\nnum_hidden_layers: 2\nnum_attention_heads: 4\nvocab_size: " \
  "100\n"                                     // 5 lines
#define FULL LLAMA "intermediate_size: 96\n"  // 6 lines

const Row rows[] = {
    // Syntax
    {model, "", "E0113", 1, 1, "empty"},
    {model, "# only a comment\n", "E0113", 1, 1, "empty"},
    {model, "model_type: [llama\n", "E0101", 2, 1, "not YAML"},
    {model, "model_type: 'llama\n", "E0101", 1, 13, "never closed"},
    {model, "model_type: \"lla\\\"ma\nhidden_size: 64\n", "E0101", 1, 13, "never closed"},
    {model, "model_type: llama\n  hidden_size: 64\n", "E0101", 2, 14, "not YAML"},
    {model, "model_type: llama\n\thidden_size: 64\n", "E0102", 2, 1, "tab"},
    {model, "rope_scaling:\n  \tfactor: 8\n", "E0102", 2, 3, "spaces"},
    {model, FULL "hidden_size: 128\n", "E0103", 7, 1, "first in line 2"},
    {model, FULL "n_embd: 64\n", "E0103", 7, 1, "mean the same"},
    {model, "hidden_size: &h 64\nmodel_type: llama\n", "E0104", 1, 14, "anchors"},
    {model, "hidden_size: *h\n", "E0101", 1, 14, "not YAML"},
    {model, "a: &x {b: 1}\n", "E0104", 1, 4, "anchors"},
    {model, "<<: {hidden_size: 64}\n", "E0104", 1, 1, "merge keys"},
    {model, "hidden_size: !!int 64\n", "E0104", 1, 14, "tags"},
    {model, "? [a, b]\n: 1\n", "E0101", 1, 3, "key"},
    {model, "~: 3\n", "E0101", 1, 1, "key is empty"},
    {model, FULL "---\n" FULL, "E0113", 8, 1, "second document"},
    {model, "- model_type: llama\n", "E0107", 1, 1, "mapping"},
    {model, "llama\n", "E0107", 1, 1, "mapping"},
    {model,
     "model_type: llama\nname: a\x01"
     "b\n",
     "E0115", 2, 8, "control character"},
    {model, "model_type: llama\nname: a\xff\n", "E0115", 2, 8, "not UTF-8"},
    {model,
     "- - - - - - - - - - - - - - - - - - - - - - - - - - - - - - - - - - - - - - - - - - - - - - "
     "- - - - - - - - - - - - - - - - - - - - - - - - ",
     "E0115", 1, 129, "deep"},
    // Keys
    {model, FULL "tensor_parralel: 4\n", "E0105", 7, 1, "unknown key 'tensor_parralel'"},
    {model, FULL "hiden_size: 64\n", "E0105", 7, 1, "did you mean 'hidden_size'"},
    {model, FULL "use_sliding_window: false\n", "E0105", 7, 1,
     "sliding_window"},  // a Qwen key in a Llama
    {model, FULL "rope_scaling: {rope_type: llama3, facter: 8}\n", "E0105", 7, 35,
     "did you mean 'factor'"},
    {model, "hidden_size: 64\n", "E0106", 1, 1, "model_type"},
    {model, "model_type: llama\nhidden_size: 64\n", "E0106", 1, 1, "lacks 'num_hidden_layers'"},
    {model, "model_type: lama\n", "E0203", 1, 13, "did you mean 'llama'"},
    {model, "model_type: mamba2\n", "E0203", 1, 13, "supported"},
    // Values
    {model, FULL "head_dim: sixteen\n", "E0107", 7, 11, "whole number"},
    {model, FULL "head_dim: '16'\n", "E0107", 7, 11, "quotes"},
    {model, FULL "head_dim: 16.5\n", "E0109", 7, 11, "whole number"},
    {model, FULL "head_dim: 1e3\n", "E0109", 7, 11, "digits only"},
    {model, FULL "head_dim: 16 GiB\n", "E0107", 7, 11, "unit"},
    {model, FULL "head_dim: [16]\n", "E0107", 7, 11, "a list"},
    {model, FULL "head_dim: {a: 1}\n", "E0107", 7, 11, "a mapping"},
    {model, FULL "head_dim: -16\n", "E0109", 7, 11, "negative"},
    {model, FULL "head_dim: 99999999999999999999\n", "E0109", 7, 11, "too large"},
    {model, FULL "head_dim: 010\n", "E0108", 7, 11, "octal"},
    {model, FULL "head_dim: 0x10\n", "E0108", 7, 11, "decimal"},
    {model, FULL "head_dim: 1_000\n", "E0108", 7, 11, "underscores"},
    {model, FULL "head_dim: 1:30\n", "E0108", 7, 11, "base 60"},
    {model, FULL "head_dim: +16\n", "E0108", 7, 11, "'+'"},
    {model, FULL "head_dim: .nan\n", "E0109", 7, 11, "finite"},
    {model, FULL "rope_theta: .inf\n", "E0109", 7, 13, "finite"},
    {model, FULL "rope_theta: nan\n", "E0109", 7, 13, "finite"},
    {model, FULL "rope_theta: 1e999\n", "E0109", 7, 13, "too large"},
    {model, FULL "rope_theta: -1\n", "E0202", 7, 13, "above 0"},
    {model, FULL "tie_word_embeddings: yes\n", "E0108", 7, 22, "write true"},
    {model, FULL "tie_word_embeddings: Off\n", "E0108", 7, 22, "write false"},
    {model, FULL "tie_word_embeddings: True\n", "E0108", 7, 22, "write true"},
    {model, FULL "tie_word_embeddings: 1\n", "E0108", 7, 22, "write true"},
    {model, FULL "tie_word_embeddings: 'true'\n", "E0108", 7, 22, "quoted"},
    {model, FULL "tie_word_embeddings: maybe\n", "E0107", 7, 22, "true or false"},
    {model, FULL "name: no\n", "E0108", 7, 7, "quotes"},
    {model, FULL "mlp: swigloo\n", "E0112", 7, 6, "did you mean 'swiglu'"},
    {model, FULL "hidden_act: tanh\n", "E0203", 7, 13, "silu"},
    {model, FULL "rope_scaling: {rope_type: yarm}\n", "E0112", 7, 15, "yarn"},
    {model, FULL "rope_scaling: llama3\n", "E0107", 7, 15, "mapping"},
    {model, FULL "mlp_only_layers: 3\n", "E0107", 7, 18, "list"},
    // Dimensions
    {model, LLAMA "intermediate_size: 0\n", "E0202", 6, 20, "is 0"},
    {model, LLAMA "\n", "E0202", 1, 1, "intermediate_size"},
    {model, FULL "num_key_value_heads: 3\n", "E0202", 7, 22, "valid num_key_value_heads: 1 2 4"},
    {model,
     "model_type: llama\nhidden_size: 62\nnum_hidden_layers: 2\nintermediate_size: 96\nvocab_size: "
     "9\nnum_attention_heads: 4\n",
     "E0202", 6, 22, "not a multiple"},
    {model,
     "model_type: llama\nhidden_size: 64\nnum_hidden_layers: "
     "1000000000000000000\nintermediate_size: 96\nvocab_size: 9\nnum_attention_heads: 4\n",
     "E0202", 3, 20, "beyond any model"},
    // Devices: units and sources
    {device, "memory: 80 GiB\n", "E0114", 1, 9, "no source"},
    {device, "source: d\nmemory: 80\n", "E0111", 2, 9, "no unit"},
    {device, "source: d\nmemory: 80 gib\n", "E0111", 2, 9, "did you mean 'GiB'"},
    {device, "source: d\nmemory: 80 GB/s\n", "E0111", 2, 9, "not a unit"},
    {device, "source: d\nmemory: lots\n", "E0107", 2, 9, "a number and a unit"},
    {device, "source: d\nmemory: -80 GiB\n", "E0109", 2, 9, "negative"},
    {device, "source: d\nmemory: 1e30 PiB\n", "E0109", 2, 9, "too large"},
    {device, "source: d\nmemory: 080 GiB\n", "E0108", 2, 9, "leading zero"},
    {device, "source: d\nmemory: 80  GiB\n", "E0111", 2, 9, "' GiB'"},
    {device, "source: d\nmemory: 80 GiB extra\n", "E0111", 2, 9, "unit"},
    {device, "source: d\nmemory: {value: 80 GiB, unit: x}\n", "E0105", 2, 25, "unknown key 'unit'"},
    {device, "source: d\nmemory: {source: e}\n", "E0106", 2, 9, "lacks 'value'"},
    {device, "source: d\nmemory_bandwidth: 0 GB/s\n", "E0109", 2, 19, "leave the line out"},
    {device, "source: d\nmemory_bandwith: 1 GB/s\n", "E0105", 2, 1,
     "did you mean 'memory_bandwidth'"},
    {device, "source: d\nlaunch: 3 GB\n", "E0111", 2, 9, "us"},
    {device, "source: d\npeak: 3 TFLOP/s\n", "E0107", 2, 7, "mapping"},
    {device, "source: d\npeak: {bf17: 3 TFLOP/s}\n", "E0112", 2, 8, "did you mean 'bf16'"},
    {device, "source: d\npeak: {bf16: 3 TFLOPS}\n", "E0111", 2, 14, "did you mean 'TFLOP/s'"},
    {device, "source: d\ngemm_efficiency: 80\n", "E0109", 2, 18, "above 0"},
    {device, "source: d\ngemm_efficiency: []\n", "E0106", 2, 18, "no points"},
    {device, "source: d\ngemm_efficiency: [[1, 0.5], [1, 0.6]]\n", "E0109", 2, 30, "grow"},
    {device, "source: d\ngemm_efficiency: [[1, 0.5, 3]]\n", "E0107", 2, 19, "3 numbers"},
    {device, "source: d\ngemm_efficiency: [[1, .nan]]\n", "E0109", 2, 23, "finite"},
    {device, "source: d\nnode: {intra: nvlink-4}\n", "E0106", 2, 7, "lacks 'devices'"},
    {device, "source: d\nnode: {devices: 8, intra: nvlink4x}\n", "E0204", 2, 27,
     "did you mean 'nvlink-4'"},
    {device, "source: no\n", "E0108", 1, 9, "quotes"},
    // Clusters
    {cluster, "nodes: 2\n", "E0106", 1, 1, "lacks 'device'"},
    {cluster, "device: h100-80g-sxm\nnodes: 0\n", "E0109", 2, 8, "too small"},
    {cluster, "device: h100-80g-sxm\nnodes: 9999999\ndevices_per_node: 4096\n", "E0109", 1, 1,
     "devices"},
    {cluster, "device: h100-80g-sxm\ninterr: x\n", "E0105", 2, 1, "did you mean 'inter'"},
    {cluster, "device: {name: x, source: y}\nnodes: 2\n", "E0106", 1, 1, "lacks 'inter'"},
    // Calibrations
    {measured, "{op: gemm}\n", "E0107", 1, 1, "list"},
    {measured, "- {op: gem}\n", "E0112", 1, 8, "did you mean 'gemm'"},
    {measured, "- {m: 3}\n", "E0106", 1, 3, "lacks 'op'"},
    {measured, "- {op: add, elements: 3, dtype: fp32, ranks: 1, threads: 1}\n", "E0106", 1, 3,
     "lacks 'time'"},
    {measured, "- {op: add, elements: 3, dtype: fp32, ranks: 1, threads: 1, time: 0 s}\n", "E0109",
     1, 67, "takes time"},
    {measured, "- {op: add, elements: 3, dtype: fp33, ranks: 1, threads: 1, time: 1 s}\n", "E0112",
     1, 33, "fp32"},
    {measured, "- {op: add, elements: 3, dtype: fp32, ranks: 1, threads: 1, time: 1 s, k: 2}\n",
     "E0105", 1, 72, "unknown key 'k' in a measured add"},
    // config.json
    {config, "", "E0101", 1, 1, "ends where"},
    {config, "{\"model_type\": \"llama\"", "E0101", 1, 23, "cut off"},
    {config, "{'model_type': 'llama'}", "E0101", 1, 2, "double quotes"},
    {config, "{\"model_type\": \"llama\",}", "E0101", 1, 24, "key"},
    {config, "{\"hidden_size\": 064, \"model_type\": \"llama\"}", "E0108", 1, 17, "octal"},
    {config, "{\"model_type\": llama}", "E0101", 1, 16, "a value"},
    {config, "{\"model_type\": \"llama\"} x", "E0113", 1, 25, "more text"},
    {config, "{\"model_type\": \"llama\",\n \"model_type\": \"gpt2\"}", "E0103", 2, 2,
     "first in line 1"},
    {config, "{\"model_type\": \"ll\nama\"}", "E0101", 1, 19, "closing"},
    {config, "{\"model_type\": \"\\x\"}", "E0101", 1, 18, "backslash"},
    {config, "[1, 2]", "E0107", 1, 1, "mapping"},
    {config, "{}", "E0106", 1, 1, "model_type"},
    {config, "{\"architectures\": [\"RwkvForCausalLM\"]}", "E0203", 1, 20, "not supported"},
    {config, "{\"model_type\": \"llama\", \"hidden_size\": NaN}", "E0109", 1, 40, "finite"},
    {config, "{\"model_type\": \"llama\", \"hidden_size\": \"64\"}", "E0107", 1, 40,
     "whole number"},
    {config, "{\"model_type\": \"llama\", \"hidden_size\": -64}", "E0109", 1, 40, "negative"},
    {config, "{\"model_type\": \"chatglm\", \"inner_hidden_size\": 16384}", "E0203", 1, 1,
     "ChatGLM2"},
};

}  // namespace

TEST_CASE("each malformed input is refused with its code at its place") {
  CHECK(std::size(rows) >= 100);
  for (const Row& row : rows) {
    const std::string text = row.text;
    CAPTURE(text);
    bool refused = false;
    try {
      read(row.reader, row.text);
    } catch (const Error& e) {
      refused = true;
      CAPTURE(e.message);
      CAPTURE(e.hint);
      CHECK(e.code == std::string(row.code));
      CHECK(e.exit == Exit::usage);
      CHECK(e.location.line == row.line);
      CHECK(e.location.column == row.column);
      CHECK(!e.hint.empty());
      CHECK((e.message + "\n" + e.hint).find(row.says) != std::string::npos);
      CHECK(e.message.find('\n') == std::string::npos);
      CHECK(e.location.length >= 1);
      CHECK(static_cast<std::size_t>(e.location.length) <=
            std::max<std::size_t>(1, e.location.source_line.size()));
    }
    CHECK(refused);
  }
}

TEST_CASE("what is well-formed beside the malformed is accepted") {
  for (const char* text : {FULL, FULL "head_dim: null\n", FULL "name: 'no'\n",
                           FULL "rope_theta: 1e6\n", FULL "rope_theta: 500000\n",
                           FULL "tie_word_embeddings: true\n", "# comment\r\n" FULL "\r\n"}) {
    CAPTURE(text);
    CHECK(parse_model(text, "t.yaml").hidden_size == 64);
  }
  CHECK(read_model_config(parse_json("\xEF\xBB\xBF{\"model_type\": \"llama\", \"nobody\": [NaN, "
                                     "-Infinity, \"\\ud83d\\ude00\"]}",
                                     "c"),
                          false, "t")
            .hidden_size == 4096);
}

TEST_CASE("quantities and counts mean what they say") {
  CHECK(parse_bytes("80 GiB").value == std::int64_t{80} << 30);
  CHECK(parse_bytes("80GiB") == parse_bytes("80 GiB"));
  CHECK(parse_bytes("80 GB").value == 80'000'000'000);
  CHECK(parse_bytes("1.5 KiB").value == 1536);
  CHECK(parse_bytes("79.1 GiB").value == 84'932'978'278);  // 79.1 · 2^30 = 84932978278.4
  CHECK(parse_bytes("4611686018427387904 B").value == std::int64_t{1} << 62);
  CHECK(parse_bytes("9007199254740993 B").value == 9007199254740993);  // past a double's 53 bits
  CHECK(parse_bytes("0 B").value == 0);
  CHECK(parse_count("4096") == 4096);
  CHECK(parse_count("100B") == 100'000'000'000);
  CHECK(parse_count("1.5M") == 1'500'000);
  CHECK(parse_count("1.1T") == 1'100'000'000'000);
  CHECK(parse_count("0") == 0);
  CHECK(parse_count("2k") == 2000);
  const auto code = [](auto f, const char* text) -> std::string {
    try {
      f(text);
    } catch (const Error& e) {
      CHECK(!e.hint.empty());
      return e.code;
    }
    return "";
  };
  for (const char* bad : {"", "GiB", "80", "80 gb", "80 GiB ", " 80 GiB", "-1 B", "nan B", "1e99 B",
                          "0x10 B", "80 TFLOP/s"}) {
    CAPTURE(bad);
    CHECK(code(parse_bytes, bad).substr(0, 3) == "E01");
  }
  for (const char* bad : {"", "B", "1.5", "-3", "+3", "1e", "010", "10 B", "10x", "1.2345K", "nan",
                          "inf", "9e30", "1,000", "99999999999999999999"}) {
    CAPTURE(bad);
    CHECK(code(parse_count, bad).substr(0, 3) == "E01");
  }
}

TEST_CASE("nearest names come best first, and nothing far off comes at all") {
  const std::vector<std::string> names = {"llama-3.1-8b", "llama-3.1-70b", "llama-2-7b", "gpt2",
                                          "qwen3-8b"};
  using V = std::vector<std::string>;
  CHECK(nearest("llama3.1-8b", names, 1) == V{"llama-3.1-8b"});
  CHECK(nearest("LLAMA_3.1_8B", names, 1) == V{"llama-3.1-8b"});
  CHECK(nearest("gtp2", names) == V{"gpt2"});
  CHECK(nearest("8b", {"a", "b"}).empty());
  CHECK(nearest("banana", names).empty());
  CHECK(nearest("llama-3.1", names) == V{"llama-3.1-8b", "llama-3.1-70b"});
  CHECK(nearest("", names).empty());
  CHECK(nearest("x", {}).empty());
}

TEST_CASE(
    "no bytes make the readers crash: mutations of every shipped file are read or refused with an "
    "Error") {
  namespace fs = std::filesystem;
  std::vector<std::pair<Reader, std::string>> files;
  for (const char* folder : {"models", "hardware_profiles"}) {
    for (const auto& entry : fs::directory_iterator(fs::path(data_directory()) / folder)) {
      if (entry.path().extension() != ".yaml") continue;
      files.emplace_back(folder[0] == 'm' ? model : device,
                         read_profile_file(entry.path().string()));
    }
  }
  std::sort(files.begin(), files.end());
  Device d = local_cluster().device;
  d.measured = {
      {Gemm{64, 32, 16, false, true, false, DType::fp32, DType::fp32}, 1, 2, {1.5e-6}},
      {Collective{Collective::Kind::all_gather, Axis::tp, {5}, DType::fp32}, 1, 2, {0.1}}};
  files.emplace_back(device, calibration_to_yaml(d));
  files.emplace_back(
      config,
      R"({"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 4096, "rope_scaling":
    {"factor": 8.0, "rope_type": "llama3"}, "tie_word_embeddings": false, "torch_dtype": "bfloat16", "eos_token_id": [1, 2], "x": "\u00e9\n"})");
  const std::string pieces[] = {
      ":",     "\n", "- ",   "{",     "}",     "[",  "]",    "\"",   "'",
      "&a ",   "*a", "!!",   "|",     ">",     "\t", "#",    "? ",   "---\n",
      "...\n", "%",  "null", "1e999", "-",     "0",  "\xc3", "\xff", std::string(1, '\0'),
      ",",     "  ", "\r",   "<<: ",  "\\u12", "@",  "`"};
  std::mt19937 random(20261121);
  const auto below = [&](std::size_t n) { return static_cast<std::size_t>(random() % n); };
  int read_well = 0, refused = 0;
  for (int i = 0; i < 12'000; ++i) {
    auto [reader, text] = files[below(files.size())];
    const int changes = 1 + static_cast<int>(below(4));
    for (int c = 0; c < changes && !text.empty(); ++c) {
      const std::size_t at = below(text.size());
      switch (below(6)) {
        case 0:
          text[at] = static_cast<char>(random());
          break;
        case 1:
          text.erase(at, 1 + below(20));
          break;
        case 2:
          text.insert(at, pieces[below(std::size(pieces))]);
          break;
        case 3:
          text.resize(at);
          break;
        case 4:
          text.insert(at, text.substr(below(text.size()), below(60)));
          break;
        case 5:
          text[at] = static_cast<char>('0' + below(10));
          break;
      }
    }
    CAPTURE(text);
    try {
      if (reader == device)
        read_device_file(parse_yaml(text, "f"));
      else
        read(reader, text);
      ++read_well;
    } catch (const Error& e) {
      ++refused;
      if (e.hint.empty() || e.code.size() != 5 || e.exit == Exit::bug)
        FAIL_CHECK(e.code << " " << e.message);
    }  // anything else fails the test
  }
  // Both happen a lot, or the mutations test nothing.
  CHECK(read_well > 500);
  CHECK(refused > 5000);
}
