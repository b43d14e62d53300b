// Directories as Hugging Face lays them out.
#include <doctest/doctest.h>

#include <filesystem>
#include <fstream>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "costmodel/error.h"
#include "costmodel/profiles/profiles.h"

using namespace llmplan;
using nlohmann::json;
namespace fs = std::filesystem;

namespace {

struct Folder {
  fs::path path = fs::temp_directory_path() / "llmplan_hf_test";
  Folder() {
    fs::remove_all(path);
    fs::create_directories(path);
  }
  ~Folder() { fs::remove_all(path); }
  void write(const char* name, const std::string& text) const {
    std::ofstream(path / name, std::ios::binary) << text;
  }
  std::string str() const { return path.string(); }
};

const json tiny = {{"model_type", "llama"},   {"hidden_size", 8},         {"num_hidden_layers", 1},
                   {"intermediate_size", 12}, {"num_attention_heads", 2}, {"vocab_size", 10}};

// A safetensors file with these tensors, data left out.
std::string safetensors(const std::vector<Tensor>& tensors, const std::string& leave_out = "") {
  json header = {{"__metadata__", {{"format", "pt"}}}};
  std::int64_t at = 0;
  for (const Tensor& t : tensors) {
    if (t.name == leave_out) continue;
    std::int64_t n = 2;
    for (std::int64_t d : t.shape) n *= d;
    header[t.name] = {{"dtype", "BF16"}, {"shape", t.shape}, {"data_offsets", {at, at + n}}};
    at += n;
  }
  const std::string text = header.dump();
  std::string out;
  for (int i = 0; i < 8; ++i) out += static_cast<char>(text.size() >> (8 * i) & 0xFF);
  return out + text;
}

template <class F>
Error error_of(F f) {
  try {
    f();
  } catch (const Error& e) { return e; }
  FAIL("no error");
  return Error("", Exit::bug, "", "");
}

}  // namespace

TEST_CASE("a directory is read by its config.json and named after itself") {
  const Folder f;
  f.write("config.json", tiny.dump());
  const ModelConfig m = read_model(f.str());
  CHECK(m.name == "llmplan_hf_test");
  CHECK(m.hidden_size == 8);
  CHECK(!m.tie_word_embeddings);
  CHECK(m == read_model((f.path / "config.json").string()));
  CHECK(checkpoint_parameters(f.str()) == 0);
  CHECK(checkpoint_differences(f.str()).empty());
}

TEST_CASE("a config that is silent about tying goes by the checkpoint beside it") {
  const Folder f;
  f.write("config.json", tiny.dump());
  ModelConfig untied = read_model(f.str());
  f.write("model.safetensors", safetensors(tensors(untied), "lm_head.weight"));
  CHECK(read_model(f.str()).tie_word_embeddings);
  CHECK(checkpoint_parameters(f.str()) == parameters(untied) - 80);
  CHECK(checkpoint_differences(f.str()).empty());
  json spoken = tiny;
  spoken["tie_word_embeddings"] = false;  // what the config says is not overruled, but reported
  f.write("config.json", spoken.dump());
  CHECK(!read_model(f.str()).tie_word_embeddings);
  REQUIRE(checkpoint_differences(f.str()).size() == 1);
  CHECK(checkpoint_differences(f.str())[0] ==
        "'lm_head.weight' is counted but not in model.safetensors");
}

TEST_CASE("a checkpoint whose shapes differ from the config is reported tensor by tensor") {
  const Folder f;
  f.write("config.json", tiny.dump());
  std::vector<Tensor> other = tensors(read_model(f.str()));
  other[0].shape = {11, 8};
  other.push_back({"model.layers.0.self_attn.q_proj.bias", {8}, 0, false, false});
  f.write("model.safetensors", safetensors(other));
  const auto all = checkpoint_differences(f.str());
  REQUIRE(all.size() == 2);
  CHECK(all[0] ==
        "'model.embed_tokens.weight' is [11, 8] in model.safetensors, [10, 8] by the config");
  CHECK(all[1] == "'model.layers.0.self_attn.q_proj.bias' is in model.safetensors but not counted");
}

TEST_CASE("an unknown model_type is refused, with the parameters that its checkpoint holds") {
  const Folder f;
  f.write("config.json",
          R"({"model_type": "qwen5_moe", "hidden_size": 64, "torch_dtype": "bfloat16"})");
  Error e = error_of([&] { read_model(f.str()); });
  CHECK(e.code == "E0203");
  CHECK(e.exit == Exit::usage);
  CHECK(e.location.line == 1);
  CHECK(e.location.column == 16);
  CHECK(e.hint.find("qwen3_moe") != std::string::npos);
  // By an index whose shards are elsewhere: bytes, by the config's dtype.
  f.write(
      "model.safetensors.index.json",
      R"({"metadata": {"total_size": 62400000000}, "weight_map": {"a.weight": "model-00001-of-00002.safetensors", "b.weight": "model-00002-of-00002.safetensors"}})");
  e = error_of([&] { read_model(f.str()); });
  CHECK(e.code == "E0203");
  CHECK(e.hint.find("model.safetensors.index.json instead: 31.2 B (31200000000)") !=
        std::string::npos);
  CHECK(e.hint.find("activations are not available") != std::string::npos);
  CHECK(checkpoint_parameters(f.str()) == 31'200'000'000);
  // By the headers of shards that are there, buffers left out.
  f.write("model-00001-of-00002.safetensors",
          safetensors({{"a.weight", {100, 7}, 0, false, false}}));
  f.write("model-00002-of-00002.safetensors",
          safetensors({{"b.weight", {3}, 0, false, false}, {"b.inv_freq", {64}, 0, false, false}}));
  CHECK(checkpoint_parameters(f.str()) == 703);
}

TEST_CASE("a damaged checkpoint is refused by name, never read past its end") {
  const Folder f;
  f.write("config.json", tiny.dump());
  const std::string good = safetensors(tensors(read_model(f.str())));
  const std::string huge_shape =
      R"({"a": {"dtype": "BF16", "shape": [9223372036854775807, 4], "data_offsets": [0, 1]}})";
  std::string huge(8, '\0');
  huge[0] = static_cast<char>(huge_shape.size());
  const std::string cases[] = {"",
                               "abc",
                               good.substr(0, 40),
                               std::string(8, '\xff') + "{}",
                               std::string("\x02\0\0\0\0\0\0\0[]", 10),
                               std::string("\x0a\0\0\0\0\0\0\0{\"a\": {}}  ", 18),
                               huge + huge_shape};
  for (const std::string& text : cases) {
    CAPTURE(text.size());
    f.write("model.safetensors", text);
    CHECK(error_of([&] { read_model(f.str()); }).code == "E0206");
  }
  fs::remove(f.path / "model.safetensors");
  for (const char* text : {"", "[]", "{}", R"({"weight_map": 3})", R"({"weight_map": {"a": 3}})",
                           R"({"weight_map": {"a": "../../etc/passwd"}})"}) {
    CAPTURE(text);
    f.write("model.safetensors.index.json", text);
    CHECK(error_of([&] { read_model(f.str()); }).code == "E0206");
  }
}

TEST_CASE("models that are not there are refused with what is near") {
  Error e = error_of([] { read_model("lama-3.1-8b"); });
  CHECK(e.code == "E0201");
  CHECK(e.hint.find("did you mean 'llama-3.1-8b'") == 0);
  CHECK(e.hint.find(fmt::format("{} built-in names", model_names().size())) != std::string::npos);
  CHECK(error_of([] { read_model("/nowhere/at/all/config.json"); }).code == "E0520");
  CHECK(error_of([] { read_model("nowhere.yaml"); }).code == "E0520");
  CHECK(error_of([] { read_model(""); }).code == "E0201");
  CHECK(error_of([] { read_model(std::string(100000, 'x')); }).code == "E0201");
  const Folder empty;
  CHECK(error_of([&] { read_model(empty.str()); }).code == "E0201");
}
