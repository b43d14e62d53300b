// Parameter counts and tensor names against transformers (tools/golden/param_counts.py made the
// tables).
#include <doctest/doctest.h>

#include <fstream>
#include <map>
#include <set>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "costmodel/error.h"
#include "costmodel/profiles/model_fields.h"
#include "costmodel/profiles/profiles.h"

using namespace llmplan;
using nlohmann::json;

namespace {

json golden(const char* name) {
  std::ifstream in(std::string(LLMPLAN_SOURCE_DIR) + "/tests/profiles/golden/" + name);
  REQUIRE(in.good());
  return json::parse(in);
}

ModelConfig from_config_json(const json& config) {
  return read_model_config(parse_json(config.dump(), "config.json"), false, "case");
}

std::int64_t elements(const Tensor& t) {
  std::int64_t n = 1;
  for (std::int64_t d : t.shape) n *= d;
  return n;
}

}  // namespace

TEST_CASE("every tensor has the name and shape of the checkpoint that transformers writes") {
  const json all = golden("tensors.json");
  REQUIRE(all.at("cases").size() >= 40);
  std::set<std::string> types;
  for (const json& one : all.at("cases")) {
    CAPTURE(one.at("config").dump());
    types.insert(one.at("config").at("model_type"));
    const ModelConfig m = from_config_json(one.at("config"));
    std::map<std::string, std::vector<std::int64_t>> ours;
    for (const Tensor& t : tensors(m)) CHECK(ours.emplace(t.name, t.shape).second);
    const auto theirs = one.at("tensors").get<std::map<std::string, std::vector<std::int64_t>>>();
    for (const auto& [name, shape] : theirs) {
      CAPTURE(name);
      REQUIRE(ours.contains(name));
      CHECK(ours[name] == shape);
    }
    for (const auto& [name, shape] : ours) {
      CAPTURE(name);
      CHECK(theirs.contains(name));
    }
    CHECK(parameters(m) == one.at("parameters").get<std::int64_t>());
    CHECK(active_parameters(m) == one.at("active").get<std::int64_t>());
  }
  CHECK(types.size() == 20);
}

TEST_CASE("built-in models have as many parameters as transformers or their authors count") {
  const json all = golden("param_counts.json").at("models");
  REQUIRE(all.size() >= 90);
  for (const auto& [name, entry] : all.items()) {
    CAPTURE(name);
    const ModelConfig m = read_model(name);
    CHECK(parameters(m) == entry.at("parameters").get<std::int64_t>());
    if (entry.contains("active"))
      CHECK(active_parameters(m) == entry.at("active").get<std::int64_t>());
  }
}

TEST_CASE("a config.json with no key but model_type is the class's own default model") {
  const json all = golden("param_counts.json").at("defaults");
  CHECK(all.size() == 20);
  for (const auto& [type, entry] : all.items()) {
    CAPTURE(type);
    const ModelConfig m = from_config_json(entry.at("config"));
    CHECK(parameters(m) == entry.at("parameters").get<std::int64_t>());
    CHECK(active_parameters(m) == entry.at("active").get<std::int64_t>());
  }
}

TEST_CASE("well-known models have their well-known sizes") {
  CHECK(parameters(read_model("llama-2-70b")) == 68'976'648'192);
  CHECK(parameters(read_model("llama-3.1-8b")) == 8'030'261'248);
  CHECK(parameters(read_model("gpt2")) == 124'439'808);
  // arXiv:2412.19437: 671B parameters, 37B of them activated for each token.
  CHECK(std::llround(parameters(read_model("deepseek-v3")) * 1e-9) == 671);
  CHECK(std::llround(active_parameters(read_model("deepseek-v3")) * 1e-9) ==
        38);  // 37.6 with both embeddings
  // The CPU models' totals: 8.6M, 25.2M, 56.4M.
  CHECK(std::llround(parameters(read_model("tiny-9m")) * 1e-5) == 86);
  CHECK(std::llround(parameters(read_model("tiny-25m")) * 1e-5) == 252);
  CHECK(std::llround(parameters(read_model("tiny-56m")) * 1e-5) == 564);
}

TEST_CASE(
    "the closed form counts what the list of tensors adds up to, and MoE layers are where they are "
    "said to be") {
  for (const std::string& name : model_names()) {
    CAPTURE(name);
    const ModelConfig m = read_model(name);
    CHECK(m.name == name);
    std::int64_t all = 0, expert = 0, routers = 0;
    for (const Tensor& t : tensors(m)) {
      CHECK(t.layer < m.num_hidden_layers);
      if (!t.buffer) (t.expert ? expert : all) += elements(t);
      routers += t.shape.size() == 2 && t.shape[0] == m.num_experts && t.layer >= 0;
    }
    CHECK(parameters(m) == all + expert);
    if (m.num_experts == 0) {
      CHECK(active_parameters(m) == parameters(m));
      CHECK(moe_layers(m) == 0);
    } else {
      CHECK(active_parameters(m) == all + expert / m.num_experts * m.num_experts_per_tok);
      CHECK(moe_layers(m) == routers);
    }
  }
}

TEST_CASE("the number of MoE layers is that of a count layer by layer") {
  for (std::int64_t layers : {1, 2, 7, 12}) {
    for (std::int64_t dense : {0, 1, 3, 20}) {
      for (std::int64_t freq : {1, 2, 3}) {
        for (std::int64_t offset = 0; offset < freq; ++offset) {
          for (const std::vector<std::int64_t>& only :
               {std::vector<std::int64_t>{}, {0}, {1, 3, 5}}) {
            ModelConfig m;
            m.num_hidden_layers = layers;
            m.num_experts = 4;
            m.first_k_dense_replace = dense;
            m.moe_layer_freq = freq;
            m.moe_layer_offset = offset;
            m.mlp_only_layers = only;
            std::int64_t n = 0;
            for (std::int64_t l = 0; l < layers; ++l) n += is_moe_layer(m, l);
            CHECK(moe_layers(m) == n);
          }
        }
      }
    }
  }
}

TEST_CASE("aliases, nested text_config and class names lead to the same model") {
  const char* direct =
      R"({"model_type": "gemma3_text", "hidden_size": 64, "num_hidden_layers": 2, "vocab_size": 100,
                           "intermediate_size": 96, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16})";
  const char* nested =
      R"({"model_type": "gemma3", "architectures": ["Gemma3ForConditionalGeneration"], "text_config":
                          {"model_type": "gemma3_text", "hidden_size": 64, "num_hidden_layers": 2, "vocab_size": 100,
                           "intermediate_size": 96, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16}})";
  const auto read = [](const char* text) {
    return read_model_config(parse_json(text, "config.json"), false, "m");
  };
  CHECK(read(direct) == read(nested));

  const char* by_class =
      R"({"architectures": ["LlamaForCausalLM"], "hidden_size": 64, "intermediate_size": 96})";
  const char* by_type = R"({"model_type": "llama", "hidden_size": 64, "intermediate_size": 96})";
  CHECK(read(by_class) == read(by_type));
  // A new model_type with a class that is known: the class decides.
  const char* renamed =
      R"({"model_type": "llama_but_mine", "architectures": ["LlamaForCausalLM"], "hidden_size": 64, "intermediate_size": 96})";
  CHECK(read(renamed) == read(by_type));
  const char* long_names =
      R"({"model_type": "gpt2", "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4})";
  const char* short_names =
      R"({"model_type": "gpt2", "n_embd": 64, "n_layer": 2, "n_head": 4, "n_inner": null})";
  CHECK(read(long_names) == read(short_names));
  CHECK(read(long_names).intermediate_size == 256);
}

TEST_CASE("run trains the Llama family only, and says what stands in the way") {
  for (const char* name : {"tiny-1m", "tiny-9m", "llama-2-7b", "llama-3.1-8b", "llama-3.2-1b"}) {
    CAPTURE(name);
    CHECK(why_not_runnable(read_model(name)) == "");
  }
  const std::pair<const char*, const char*> obstacles[] = {
      {"gpt2", "LayerNorm"},
      {"mixtral-8x7b", "mixture of experts"},
      {"deepseek-v2", "multi-head latent attention"},
      {"qwen2.5-7b", "biases"},
      {"qwen3-8b", "norms on queries and keys"},
      {"gemma-2-2b", "SwiGLU"},
      {"mistral-7b", "window"},
      {"bloom-560m", "RoPE"}};
  for (const auto& [name, word] : obstacles) {
    CAPTURE(name);
    CHECK(why_not_runnable(read_model(name)).find(word) != std::string::npos);
  }
}

TEST_CASE("RoPE scalings that have no kernel cannot be run, those that have can") {
  ModelConfig m = read_model("tiny-1m");
  for (const char* type : {"default", "linear", "dynamic", "llama3"}) {
    m.rope_scaling.rope_type = type;
    CHECK(why_not_runnable(m) == "");
  }
  for (const char* type : {"yarn", "longrope", "mrope"}) {
    m.rope_scaling.rope_type = type;
    CHECK(why_not_runnable(m).find("RoPE scaling") != std::string::npos);
  }
}

TEST_CASE("impossible dimensions are refused before anything multiplies them") {
  const ModelConfig good = read_model("mixtral-8x7b");
  const auto code_of = [](const ModelConfig& m) -> std::string {
    try {
      check(m);
    } catch (const Error& e) {
      CHECK(!e.hint.empty());
      return e.code;
    }
    return "";
  };
  CHECK(code_of(good) == "");
  const auto changed = [&](auto change) {
    ModelConfig m = good;
    change(m);
    return code_of(m);
  };
  using M = ModelConfig;
  for (std::int64_t bad : {std::int64_t{0}, std::int64_t{-1},
                           std::int64_t{1'000'000'000'000'000'000}, INT64_MAX, INT64_MIN}) {
    for (auto member :
         {&M::hidden_size, &M::num_hidden_layers, &M::intermediate_size, &M::num_attention_heads,
          &M::num_key_value_heads, &M::head_dim, &M::vocab_size}) {
      CHECK(changed([&](M& m) { m.*member = bad; }) == "E0202");
    }
  }
  for (auto member : {&M::num_experts, &M::num_experts_per_tok, &M::moe_intermediate_size,
                      &M::sliding_window, &M::q_lora_rank, &M::first_k_dense_replace,
                      &M::max_position_embeddings, &M::moe_layer_freq, &M::moe_layer_offset})
    CHECK(changed([&](M& m) { m.*member = -3; }) == "E0202");
  CHECK(changed([](M& m) { m.num_key_value_heads = 5; }) == "E0202");
  CHECK(changed([](M& m) { m.num_experts_per_tok = 9; }) == "E0202");
  CHECK(changed([](M& m) { m.moe_intermediate_size = 0; }) == "E0202");
  CHECK(changed([](M& m) { m.rope_theta = std::nan(""); }) == "E0202");
  CHECK(changed([](M& m) { m.rms_norm_eps = -1; }) == "E0202");
  CHECK(changed([](M& m) { m.mlp_only_layers = {3, 3}; }) == "E0202");
  // Each dimension is possible; together they are more than 10^17 parameters.
  CHECK(changed([](M& m) {
          m.hidden_size = m.intermediate_size = m.moe_intermediate_size = 1 << 24;
          m.num_hidden_layers = 100'000;
          m.num_experts = 65536;
        }) == "E0202");
}
