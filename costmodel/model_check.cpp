// Refuses dimensions that no model can have, before anything multiplies them.
#include <cmath>

#include "costmodel/error.h"
#include "costmodel/model.h"

namespace llmplan {
namespace {

struct Range {
  const char* field;
  std::int64_t ModelConfig::*member;
  std::int64_t least, most;
};

// `most` is far beyond any model (2026) and small enough that no weight matrix reaches 2^60
// elements.
constexpr std::int64_t wide = std::int64_t{1} << 24, many = std::int64_t{1} << 16;
constexpr Range ranges[] = {
    {"hidden_size", &ModelConfig::hidden_size, 1, wide},
    {"num_hidden_layers", &ModelConfig::num_hidden_layers, 1, 100'000},
    {"intermediate_size", &ModelConfig::intermediate_size, 1, wide * 8},
    {"num_attention_heads", &ModelConfig::num_attention_heads, 1, many},
    {"num_key_value_heads", &ModelConfig::num_key_value_heads, 1, many},
    {"head_dim", &ModelConfig::head_dim, 1, many},
    {"vocab_size", &ModelConfig::vocab_size, 1, std::int64_t{1} << 31},
    {"max_position_embeddings", &ModelConfig::max_position_embeddings, 0, std::int64_t{1} << 40},
    {"position_rows", &ModelConfig::position_rows, 0, std::int64_t{1} << 31},
    {"embedding_proj_dim", &ModelConfig::embedding_proj_dim, 0, wide},
    {"sliding_window", &ModelConfig::sliding_window, 0, std::int64_t{1} << 40},
    {"sliding_window_pattern", &ModelConfig::sliding_window_pattern, 1, 100'000},
    {"num_experts", &ModelConfig::num_experts, 0, many},
    {"num_experts_per_tok", &ModelConfig::num_experts_per_tok, 0, many},
    {"moe_intermediate_size", &ModelConfig::moe_intermediate_size, 0, wide},
    {"shared_expert_intermediate_size", &ModelConfig::shared_expert_intermediate_size, 0, wide},
    {"first_k_dense_replace", &ModelConfig::first_k_dense_replace, 0, 100'000},
    {"moe_layer_freq", &ModelConfig::moe_layer_freq, 1, 100'000},
    {"moe_layer_offset", &ModelConfig::moe_layer_offset, 0, 100'000},
    {"q_lora_rank", &ModelConfig::q_lora_rank, 0, wide},
    {"kv_lora_rank", &ModelConfig::kv_lora_rank, 0, wide},
    {"qk_nope_head_dim", &ModelConfig::qk_nope_head_dim, 0, many},
    {"qk_rope_head_dim", &ModelConfig::qk_rope_head_dim, 0, many},
    {"v_head_dim", &ModelConfig::v_head_dim, 0, many},
    {"num_nextn_predict_layers", &ModelConfig::num_nextn_predict_layers, 0, 1000},
};

std::string str(std::int64_t n) { return std::to_string(n); }

// The divisors of n, as a hint: "1 2 4 8".
std::string divisors(std::int64_t n) {
  std::string out;
  for (std::int64_t d = 1; d <= n; ++d)
    if (n % d == 0) out.append(out.empty() ? "" : " ").append(str(d));
  return out;
}

ModelProblem find_moe_problem(const ModelConfig& m) {
  if (m.num_experts == 0) return {};
  if (m.moe_intermediate_size == 0)
    return {"moe_intermediate_size",
            "num_experts is " + str(m.num_experts) + " but moe_intermediate_size is 0",
            "give the width of one expert"};
  if (m.num_experts_per_tok < 1 || m.num_experts_per_tok > m.num_experts)
    return {"num_experts_per_tok",
            "num_experts_per_tok is " + str(m.num_experts_per_tok) + " of " + str(m.num_experts) +
                " experts",
            "valid: 1 to " + str(m.num_experts)};
  if (m.moe_layer_offset >= m.moe_layer_freq)
    return {"moe_layer_offset",
            "moe_layer_offset must be below moe_layer_freq (" + str(m.moe_layer_freq) + ")",
            "valid: 0 to " + str(m.moe_layer_freq - 1)};
  for (std::size_t i = 0; i < m.mlp_only_layers.size(); ++i) {
    const std::int64_t l = m.mlp_only_layers[i];
    if (l < 0 || l >= m.num_hidden_layers || (i > 0 && l <= m.mlp_only_layers[i - 1]))
      return {"mlp_only_layers",
              "mlp_only_layers has layer " + str(l) + " twice, out of order or not in the model",
              "list each dense layer once, ascending, from 0 to " + str(m.num_hidden_layers - 1)};
  }
  return {};
}

ModelProblem find_attention_problem(const ModelConfig& m) {
  if (m.kv_lora_rank) {
    if (m.v_head_dim == 0)
      return {"v_head_dim", "kv_lora_rank is set but v_head_dim is 0",
              "give v_head_dim (DeepSeek-V3: 128)"};
    if (m.qk_nope_head_dim + m.qk_rope_head_dim == 0)
      return {"qk_nope_head_dim",
              "kv_lora_rank is set but qk_nope_head_dim + qk_rope_head_dim is 0",
              "give both (DeepSeek-V3: 128 and 64)"};
    return {};
  }
  if (m.num_attention_heads % m.num_key_value_heads != 0)
    return {"num_key_value_heads",
            str(m.num_attention_heads) + " attention heads cannot be shared among " +
                str(m.num_key_value_heads) + " key/value heads",
            "valid num_key_value_heads: " + divisors(m.num_attention_heads)};
  return {};
}

}  // namespace

ModelProblem find_problem(const ModelConfig& m) {
  for (const Range& r : ranges) {
    const std::int64_t v = m.*r.member;
    if (v >= r.least && v <= r.most) continue;
    std::string message = r.field;
    if (v == 0)
      return {r.field, message.append(" is 0"),
              "give a value from " + str(r.least) + " to " + str(r.most)};
    message.append(" is ").append(str(v)).append(v < 0 ? ", which is negative"
                                                       : ", which is beyond any model");
    return {r.field, message, "valid: " + str(r.least) + " to " + str(r.most)};
  }
  if (m.norms_per_layer < 0 || m.norms_per_layer > 4)
    return {"norms_per_layer", "norms_per_layer is " + std::to_string(m.norms_per_layer),
            "valid: 0 to 4"};
  const struct {
    const char* field;
    double value, most;
  } positive[] = {
      {"rms_norm_eps", m.rms_norm_eps, 1},
      {"rope_theta", m.rope_theta, 1e30},
      {"partial_rotary_factor", m.partial_rotary_factor, 1},
      {"rope_scaling", m.rope_scaling.factor, 1e9},
  };
  for (const auto& p : positive) {
    if (std::isfinite(p.value) && p.value > 0 && p.value <= p.most) continue;
    return {p.field, std::string(p.field) + " is " + std::to_string(p.value),
            "give a number above 0, at most " + std::to_string(p.most)};
  }
  if (ModelProblem p = find_attention_problem(m); !p.field.empty()) return p;
  if (ModelProblem p = find_moe_problem(m); !p.field.empty()) return p;

  // 10^17 parameters are 2·10^18 bytes with their optimizer: still an int64. One layer cannot
  // overflow.
  ModelConfig one = m;
  one.num_hidden_layers = 1;
  one.first_k_dense_replace = one.moe_layer_offset = 0;
  one.moe_layer_freq = 1;
  one.mlp_only_layers.clear();
  one.num_experts_per_tok = m.num_experts ? 1 : 0;
  const double layers = static_cast<double>(m.num_hidden_layers),
               experts = static_cast<double>(m.num_experts);
  const double most =
      static_cast<double>(active_parameters(one)) * layers * (experts > 0 ? experts : 1);
  if (most > 1e17)
    return {"num_hidden_layers", "the model would have more than 10^17 parameters",
            "check hidden_size, intermediate_size, num_hidden_layers and num_experts"};
  return {};
}

void check(const ModelConfig& m) {
  const ModelProblem p = find_problem(m);
  if (!p.field.empty()) throw Error("E0202", Exit::usage, p.message, p.hint);
}

}  // namespace llmplan
