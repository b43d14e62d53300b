// A model's architecture, in the words of Hugging Face's config.json.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "costmodel/op.h"
#include "costmodel/units.h"

namespace llmplan {

enum class Mlp : std::uint8_t { swiglu, geglu, gelu, relu, relu2 };   // the first two are gated
enum class Norm : std::uint8_t { rms, layer };
enum class Positions : std::uint8_t { rope, learned, alibi, none };

struct RopeScaling {  // rope_type "default" | "linear" | "dynamic" | "yarn" | "llama3" | "longrope"
  std::string rope_type = "default";
  double factor = 1, low_freq_factor = 1, high_freq_factor = 4;
  std::int64_t original_max_position_embeddings = 8192;
  bool operator==(const RopeScaling&) const = default;
};

struct ModelConfig {
  std::string name{};
  std::string model_type = "llama";
  std::int64_t hidden_size = 0;
  std::int64_t num_hidden_layers = 0;
  std::int64_t intermediate_size = 0;
  std::int64_t num_attention_heads = 0;
  std::int64_t num_key_value_heads = 0;     // readers fill in num_attention_heads when absent
  std::int64_t head_dim = 0;                // readers fill in hidden_size / num_attention_heads when absent,
                                            // for MLA qk_nope_head_dim + qk_rope_head_dim
  std::int64_t vocab_size = 0;
  std::int64_t max_position_embeddings = 0; // 0: not stated
  bool tie_word_embeddings = false;
  double rms_norm_eps = 1e-5;
  double rope_theta = 10000;
  RopeScaling rope_scaling{};

  // What deviates from Llama.
  Mlp mlp = Mlp::swiglu;
  Norm norm = Norm::rms;
  Positions positions = Positions::rope;
  bool qkv_bias = false, attention_out_bias = false, mlp_bias = false, norm_bias = false;
  bool lm_head_bias = false;
  bool qk_norm = false;                     // RMSNorm(head_dim) on q and k
  bool embedding_norm = false;              // Bloom
  bool final_norm = true;
  bool norm_affine = true;                  // norms have a weight (Galactica's do not)
  int norms_per_layer = 2;                  // Gemma 2/3: 4; Falcon's parallel blocks: 1
  std::int64_t position_rows = 0;           // rows of a learned position table (OPT: positions + 2)
  std::int64_t embedding_proj_dim = 0;      // OPT-350m's word_embed_proj_dim; 0: hidden_size
  bool parallel_attn = false;               // attention and MLP read the same input: GPT-NeoX, Falcon
  double partial_rotary_factor = 1;         // share of head_dim that is rotated
  std::int64_t sliding_window = 0;          // tokens; 0: every layer sees all
  std::int64_t sliding_window_pattern = 1;  // with a window: every n-th layer sees all; 1: none does

  // Mixture of experts; num_experts 0 means dense.
  std::int64_t num_experts = 0, num_experts_per_tok = 0, moe_intermediate_size = 0;
  std::int64_t shared_expert_intermediate_size = 0;  // all shared experts together
  bool shared_expert_gate = false;
  bool router_bias = false;                 // DeepSeek-V3's e_score_correction_bias
  std::int64_t first_k_dense_replace = 0;   // that many first layers are dense
  std::int64_t moe_layer_freq = 1;          // of the rest, layers l with l mod freq == offset are MoE
  std::int64_t moe_layer_offset = 0;
  std::vector<std::int64_t> mlp_only_layers{};  // dense whatever the above says; ascending (Qwen)

  // Multi-head latent attention; kv_lora_rank 0 means ordinary attention.
  std::int64_t q_lora_rank = 0, kv_lora_rank = 0;
  std::int64_t qk_nope_head_dim = 0, qk_rope_head_dim = 0, v_head_dim = 0;
  std::int64_t num_nextn_predict_layers = 0;

  bool operator==(const ModelConfig&) const = default;
};

// One weight tensor of the whole, unsharded model, by its Hugging Face name.
struct Tensor {
  std::string name;                 // "model.layers.3.self_attn.q_proj.weight"
  std::vector<std::int64_t> shape;  // [out, in] for linears
  int layer = -1;                   // -1: embeddings, final norm, head
  bool expert = false;              // one of num_experts; counted in `active` by top_k/num_experts
  bool buffer = false;              // in the checkpoint but not trained: not a parameter
};
// In checkpoint order: embeddings, layers, final norm, head. Experts are listed one by one.
std::vector<Tensor> tensors(const ModelConfig&);
std::int64_t parameters(const ModelConfig&);         // exact; tied tensors once
std::int64_t active_parameters(const ModelConfig&);  // those that one token passes through
bool is_moe_layer(const ModelConfig&, std::int64_t layer);
std::int64_t moe_layers(const ModelConfig&);         // how many of num_hidden_layers are MoE
constexpr bool is_gated(Mlp m) { return m == Mlp::swiglu || m == Mlp::geglu; }
std::string_view name_of(Mlp);
std::string_view name_of(Norm);
std::string_view name_of(Positions);

// The first dimension that is impossible, or an empty field.
struct ModelProblem { std::string field, message, hint; };
ModelProblem find_problem(const ModelConfig&);
// Throws Error E0202 when a dimension is impossible (zero, negative, 10^18 layers, heads that do not divide).
void check(const ModelConfig&);
// The models that `run` can train: Llama-family decoder, dense, RMSNorm, RoPE, SwiGLU, no biases.
// Empty when it can; else the reason, for a message.
std::string why_not_runnable(const ModelConfig&);

}  // namespace llmplan
