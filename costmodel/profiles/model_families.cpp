// What each transformers class assumes where its config.json is silent, and what its own keys mean.
// Defaults: configuration_<type>.py of transformers 5; for the classes that transformers lacks
// (baichuan, chatglm, internlm, internlm2, qwen, deepseek,
// aquila) the configuration_*.py published beside the
// weights.
#include <algorithm>
#include <string>

#include <fmt/format.h>

#include "costmodel/profiles/model_fields.h"
#include "costmodel/profiles/quantity.h"

namespace llmplan {
namespace {

bool given(const Node& n, const char* key) {
  return n.find(key) && n.find(key)->kind != Node::Kind::null;
}
bool flag(const Node& n, const char* key, bool otherwise) {
  return given(n, key) ? read_bool(*n.find(key), key) : otherwise;
}
std::int64_t integer(const Node& n, const char* key, std::int64_t otherwise) {
  return given(n, key) ? read_integer(*n.find(key), key, 0, std::int64_t{1} << 40) : otherwise;
}

// transformers' names of activations, for a gated and for an ordinary MLP.
void activation(const Node& n, ModelConfig& m) {
  for (const char* key : {"hidden_act", "hidden_activation", "activation_function", "activation"}) {
    if (!given(n, key)) continue;
    const Node& at = *n.find(key);
    const std::string name = read_text(at, key);
    if (name == "silu" || name == "swish" || name == "swiglu")
      m.mlp = Mlp::swiglu;
    else if (name.starts_with("gelu"))
      m.mlp = is_gated(m.mlp) ? Mlp::geglu : Mlp::gelu;
    else if (name == "relu" && !is_gated(m.mlp))
      m.mlp = Mlp::relu;
    else if (name == "relu2" && !is_gated(m.mlp))
      m.mlp = Mlp::relu2;
    else
      fail(at, "E0203", fmt::format("{} '{}' is not supported", key, name.substr(0, 40)),
           "supported: silu, gelu and its approximations; without gate also relu and relu2");
  }
}

void attention_bias(const Node& n, ModelConfig& m) {
  m.qkv_bias = flag(n, "attention_bias", m.qkv_bias);
  m.attention_out_bias = flag(n, "attention_bias", m.attention_out_bias);
}

void all_biases(ModelConfig& m, bool on) { m.qkv_bias = m.attention_out_bias = m.mlp_bias = on; }
void four_times(ModelConfig& m) {
  if (m.intermediate_size == 0) m.intermediate_size = 4 * m.hidden_size;
}

void llama(const Node& n, ModelConfig& m) {
  activation(n, m);
  attention_bias(n, m);
}

// Qwen states a window that counts only with use_sliding_window.
void qwen2(const Node& n, ModelConfig& m) {  // has a bias on q, k, v whatever attention_bias says
  activation(n, m);
  if (!flag(n, "use_sliding_window", false)) m.sliding_window = 0;
}

void qwen3(const Node& n, ModelConfig& m) {
  qwen2(n, m);
  attention_bias(n, m);
}

void qwen2_moe(const Node& n, ModelConfig& m) {
  qwen2(n, m);
  m.moe_layer_offset =
      m.moe_layer_freq > 0 ? m.moe_layer_freq - 1 : 0;  // layers l with (l + 1) mod step == 0
}
void qwen3_moe(const Node& n, ModelConfig& m) {
  qwen2_moe(n, m);
  attention_bias(n, m);
}

void deepseek(const Node& n, ModelConfig& m, std::int64_t shared_experts) {
  llama(n, m);
  if (n.find("n_shared_experts"))
    shared_experts = given(n, "n_shared_experts")
                         ? read_integer(*n.find("n_shared_experts"), "n_shared_experts", 0, 1000)
                         : 0;
  if (m.shared_expert_intermediate_size == 0)
    m.shared_expert_intermediate_size =
        shared_experts * std::min<std::int64_t>(m.moe_intermediate_size, 1 << 24);
  if (m.kv_lora_rank) m.head_dim = m.qk_nope_head_dim + m.qk_rope_head_dim;
}
void deepseek_v1(const Node& n, ModelConfig& m) { deepseek(n, m, 0); }
void deepseek_v2(const Node& n, ModelConfig& m) { deepseek(n, m, 2); }
void deepseek_v3(const Node& n, ModelConfig& m) { deepseek(n, m, 1); }

void mixtral(const Node& n, ModelConfig& m) {
  activation(n, m);
  if (m.moe_intermediate_size == 0) m.moe_intermediate_size = m.intermediate_size;
}

void gpt2(const Node& n, ModelConfig& m) {
  activation(n, m);
  four_times(m);
}

// The first Qwen states both halves of its gated MLP as one width; c_attn has a bias even with
// no_bias.
void qwen(const Node& n, ModelConfig& m) {
  m.intermediate_size /= 2;
  m.qkv_bias = true;
  m.attention_out_bias = m.mlp_bias = !flag(n, "no_bias", true);
}

void falcon(const Node& n, ModelConfig& m) {
  activation(n, m);
  four_times(m);
  const bool grouped = flag(n, "new_decoder_architecture", false);
  if (!grouped) m.num_key_value_heads = flag(n, "multi_query", true) ? 1 : m.num_attention_heads;
  m.norms_per_layer =
      !m.parallel_attn || integer(n, "num_ln_in_parallel_attn", grouped ? 2 : 1) == 2 ? 2 : 1;
  all_biases(m, flag(n, "bias", false));
  if (flag(n, "alibi", false)) m.positions = Positions::alibi;
}

void opt(const Node& n, ModelConfig& m) {
  activation(n, m);
  const bool bias = flag(n, "enable_bias", true);
  all_biases(m, bias);
  m.norm_bias = bias;
  m.norm_affine = flag(n, "layer_norm_elementwise_affine", true);
  m.final_norm =
      flag(n, "do_layer_norm_before", true) && !flag(n, "_remove_final_layer_norm", false);
  if (m.position_rows == 0)
    m.position_rows = m.max_position_embeddings + 2;  // OPTLearnedPositionalEmbedding.offset
}

void chatglm(const Node& n, ModelConfig& m) {
  if (given(n, "inner_hidden_size") || given(n, "position_encoding_2d"))
    fail(n, "E0203", "this is the first ChatGLM-6B, which is not supported",
         "ChatGLM2, ChatGLM3 and GLM-4-9B are");
  m.num_key_value_heads = flag(n, "multi_query_attention", false)
                              ? integer(n, "multi_query_group_num", 1)
                              : m.num_attention_heads;
  const bool bias = flag(n, "add_bias_linear", false);
  all_biases(m, bias);
  m.qkv_bias = bias || flag(n, "add_qkv_bias", false);
  m.lm_head_bias = bias;
  m.final_norm = flag(n, "post_layer_norm", true);
  if (!flag(n, "rmsnorm", true)) {
    m.norm = Norm::layer;
    m.norm_bias = true;
  }
}

// 13B has no RoPE but ALiBi; its config states model_max_length alone, the 7B's
// max_position_embeddings.
void baichuan(const Node& n, ModelConfig& m) {
  activation(n, m);
  if (given(n, "model_max_length") && !given(n, "max_position_embeddings"))
    m.positions = Positions::alibi;
}

void internlm(const Node& n, ModelConfig& m) {
  activation(n, m);
  m.qkv_bias = m.attention_out_bias = flag(n, "bias", true);
}

void mpt(const Node& n, ModelConfig& m) {
  m.intermediate_size = integer(n, "expansion_ratio", 4) * m.hidden_size;
  all_biases(m, !flag(n, "no_bias", true));
  m.norm_bias = m.qkv_bias;
  if (const Node* attention = n.find("attn_config");
      attention && attention->kind == Node::Kind::map) {
    m.positions = flag(*attention, "alibi", true) ? Positions::alibi : Positions::learned;
    m.num_key_value_heads = integer(*attention, "kv_n_heads", m.num_attention_heads);
  }
}

constexpr const char* act = "hidden_act";

// GPT-2 and its children: LayerNorm, GELU, a bias on everything.
#define LLMPLAN_GPT \
  "norm: layer, qkv_bias: true, attention_out_bias: true, mlp_bias: true, norm_bias: true, "

}  // namespace

const std::vector<ModelFamily>& model_families() {
  static const std::vector<ModelFamily> families = {
      {"llama",
       {"LlamaForCausalLM"},
       "hidden_size: 4096, num_hidden_layers: 32, intermediate_size: 11008, num_attention_heads: "
       "32, "
       "vocab_size: 32000, max_position_embeddings: 2048, rms_norm_eps: 1e-6",
       {act, "attention_bias"},
       llama},
      {"mistral",
       {"MistralForCausalLM"},
       "hidden_size: 4096, num_hidden_layers: 32, intermediate_size: 14336, num_attention_heads: "
       "32, "
       "num_key_value_heads: 8, vocab_size: 32000, max_position_embeddings: 131072, "
       "rms_norm_eps: 1e-6, sliding_window: 4096",
       {act},
       activation},
      {"mixtral",
       {"MixtralForCausalLM"},
       "hidden_size: 4096, num_hidden_layers: 32, intermediate_size: 14336, num_attention_heads: "
       "32, "
       "num_key_value_heads: 8, vocab_size: 32000, max_position_embeddings: 131072, rope_theta: "
       "1e6, "
       "num_experts: 8, num_experts_per_tok: 2",
       {act},
       mixtral},
      {"qwen",
       {"QWenLMHeadModel"},
       "hidden_size: 4096, num_hidden_layers: 32, intermediate_size: 22016, num_attention_heads: "
       "32, "
       "vocab_size: 151936, max_position_embeddings: 8192, rms_norm_eps: 1e-6",
       {"no_bias"},
       qwen},
      {"qwen2",
       {"Qwen2ForCausalLM"},
       "hidden_size: 4096, num_hidden_layers: 32, intermediate_size: 22016, num_attention_heads: "
       "32, "
       "num_key_value_heads: 32, vocab_size: 151936, max_position_embeddings: 32768, "
       "rms_norm_eps: 1e-6, qkv_bias: true, sliding_window: 4096",
       {act, "use_sliding_window"},
       qwen2},
      {"qwen3",
       {"Qwen3ForCausalLM"},
       "hidden_size: 4096, num_hidden_layers: 32, intermediate_size: 22016, num_attention_heads: "
       "32, "
       "num_key_value_heads: 32, head_dim: 128, vocab_size: 151936, max_position_embeddings: "
       "32768, "
       "rms_norm_eps: 1e-6, qk_norm: true, sliding_window: 4096",
       {act, "attention_bias", "use_sliding_window"},
       qwen3},
      {"qwen2_moe",
       {"Qwen2MoeForCausalLM"},
       "hidden_size: 2048, num_hidden_layers: 24, intermediate_size: 5632, num_attention_heads: "
       "16, "
       "num_key_value_heads: 16, vocab_size: 151936, max_position_embeddings: 32768, "
       "rms_norm_eps: 1e-6, qkv_bias: true, sliding_window: 4096, num_experts: 60, "
       "num_experts_per_tok: 4, moe_intermediate_size: 1408, shared_expert_intermediate_size: "
       "5632, "
       "shared_expert_gate: true",
       {act, "use_sliding_window"},
       qwen2_moe},
      {"qwen3_moe",
       {"Qwen3MoeForCausalLM"},
       "hidden_size: 2048, num_hidden_layers: 24, intermediate_size: 6144, num_attention_heads: "
       "32, "
       "num_key_value_heads: 4, vocab_size: 151936, max_position_embeddings: 32768, "
       "rms_norm_eps: 1e-6, qk_norm: true, sliding_window: 4096, num_experts: 128, "
       "num_experts_per_tok: 8, moe_intermediate_size: 768",
       {act, "attention_bias", "use_sliding_window"},
       qwen3_moe},
      {"deepseek",
       {"DeepseekForCausalLM"},
       "hidden_size: 4096, num_hidden_layers: 30, intermediate_size: 11008, num_attention_heads: "
       "32, "
       "vocab_size: 102400, max_position_embeddings: 2048, rms_norm_eps: 1e-6, "
       "moe_intermediate_size: 1407",
       {act, "attention_bias", "n_shared_experts"},
       deepseek_v1},
      {"deepseek_v2",
       {"DeepseekV2ForCausalLM"},
       "hidden_size: 4096, num_hidden_layers: 32, intermediate_size: 11008, num_attention_heads: "
       "32, "
       "vocab_size: 102400, max_position_embeddings: 2048, rms_norm_eps: 1e-6, num_experts: 64, "
       "moe_intermediate_size: 1407, q_lora_rank: 1536, kv_lora_rank: 512, qk_nope_head_dim: 128, "
       "qk_rope_head_dim: 64, v_head_dim: 128",
       {act, "attention_bias", "n_shared_experts"},
       deepseek_v2},
      {"deepseek_v3",
       {"DeepseekV3ForCausalLM"},
       "hidden_size: 7168, num_hidden_layers: 61, intermediate_size: 18432, num_attention_heads: "
       "128, "
       "num_key_value_heads: 128, vocab_size: 129280, max_position_embeddings: 4096, "
       "rms_norm_eps: 1e-6, num_experts: 256, num_experts_per_tok: 8, moe_intermediate_size: 2048, "
       "router_bias: true, first_k_dense_replace: 3, q_lora_rank: 1536, kv_lora_rank: 512, "
       "qk_nope_head_dim: 128, qk_rope_head_dim: 64, v_head_dim: 128, num_nextn_predict_layers: 1",
       {act, "attention_bias", "n_shared_experts"},
       deepseek_v3},
      {"gpt2",
       {"GPT2LMHeadModel"},
       LLMPLAN_GPT "mlp: gelu, hidden_size: 768, num_hidden_layers: 12, num_attention_heads: 12, "
                   "vocab_size: 50257, "
                   "max_position_embeddings: 1024, tie_word_embeddings: true, positions: learned",
       {"activation_function"},
       gpt2},
      {"gpt_neox",
       {"GPTNeoXForCausalLM"},
       LLMPLAN_GPT "mlp: gelu, hidden_size: 6144, num_hidden_layers: 44, num_attention_heads: 64, "
                   "intermediate_size: 24576, "
                   "vocab_size: 50432, max_position_embeddings: 2048, parallel_attn: true, "
                   "partial_rotary_factor: 0.25",
       {act, "attention_bias"},
       llama},
      {"bloom",
       {"BloomForCausalLM"},
       LLMPLAN_GPT "mlp: gelu, hidden_size: 64, num_hidden_layers: 2, num_attention_heads: 8, "
                   "vocab_size: 250880, "
                   "tie_word_embeddings: true, positions: alibi, embedding_norm: true",
       {},
       gpt2},
      {"opt",
       {"OPTForCausalLM"},
       LLMPLAN_GPT
       "hidden_size: 768, num_hidden_layers: 12, num_attention_heads: 12, intermediate_size: 3072, "
       "vocab_size: 50272, max_position_embeddings: 2048, tie_word_embeddings: true, "
       "positions: learned, mlp: relu",
       {"activation_function", "enable_bias", "layer_norm_elementwise_affine",
        "do_layer_norm_before", "_remove_final_layer_norm"},
       opt},
      {"falcon",
       {"FalconForCausalLM", "RWForCausalLM"},
       "hidden_size: 4544, num_hidden_layers: 32, num_attention_heads: 71, vocab_size: 65024, "
       "max_position_embeddings: 2048, tie_word_embeddings: true, mlp: gelu, norm: layer, "
       "norm_bias: true, parallel_attn: true",
       {"activation", "new_decoder_architecture", "multi_query", "num_ln_in_parallel_attn", "bias",
        "alibi"},
       falcon},
      {"gemma",
       {"GemmaForCausalLM"},
       "hidden_size: 3072, num_hidden_layers: 28, intermediate_size: 24576, num_attention_heads: "
       "16, "
       "num_key_value_heads: 16, head_dim: 256, vocab_size: 256000, max_position_embeddings: 8192, "
       "tie_word_embeddings: true, rms_norm_eps: 1e-6, mlp: geglu",
       {act, "hidden_activation", "attention_bias"},
       llama},
      {"gemma2",
       {"Gemma2ForCausalLM"},
       "hidden_size: 2304, num_hidden_layers: 26, intermediate_size: 9216, num_attention_heads: 8, "
       "num_key_value_heads: 4, head_dim: 256, vocab_size: 256000, max_position_embeddings: 8192, "
       "tie_word_embeddings: true, rms_norm_eps: 1e-6, mlp: geglu, norms_per_layer: 4, "
       "sliding_window: 4096, sliding_window_pattern: 2",
       {act, "hidden_activation", "attention_bias"},
       llama},
      {"gemma3_text",
       {"Gemma3ForCausalLM"},
       "hidden_size: 2304, num_hidden_layers: 26, intermediate_size: 9216, num_attention_heads: 8, "
       "num_key_value_heads: 4, head_dim: 256, vocab_size: 262208, max_position_embeddings: "
       "131072, "
       "tie_word_embeddings: true, rms_norm_eps: 1e-6, rope_theta: 1e6, mlp: geglu, qk_norm: true, "
       "norms_per_layer: 4, sliding_window: 4096, sliding_window_pattern: 6",
       {act, "hidden_activation", "attention_bias"},
       llama},
      {"phi3",
       {"Phi3ForCausalLM"},
       "hidden_size: 3072, num_hidden_layers: 32, intermediate_size: 8192, num_attention_heads: "
       "32, "
       "vocab_size: 32064, max_position_embeddings: 4096",
       {act, "original_max_position_embeddings"},
       activation},
      {"nemotron",
       {"NemotronForCausalLM"},
       "hidden_size: 6144, num_hidden_layers: 32, intermediate_size: 24576, num_attention_heads: "
       "48, "
       "vocab_size: 256000, max_position_embeddings: 4096, mlp: relu2, norm: layer, norm_bias: "
       "true, "
       "partial_rotary_factor: 0.5",
       {act, "attention_bias", "norm_eps"},
       llama},
      {"mpt",
       {"MPTForCausalLM", "MptForCausalLM"},
       "hidden_size: 2048, num_hidden_layers: 24, num_attention_heads: 16, vocab_size: 50368, "
       "max_position_embeddings: 2048, tie_word_embeddings: true, mlp: gelu, norm: layer, "
       "positions: alibi",
       {"expansion_ratio", "no_bias", "attn_config"},
       mpt},
      {"baichuan",
       {"BaichuanForCausalLM", "BaiChuanForCausalLM"},
       "hidden_size: 4096, num_hidden_layers: 32, intermediate_size: 11008, num_attention_heads: "
       "32, "
       "vocab_size: 64000, max_position_embeddings: 4096, rms_norm_eps: 1e-6",
       {act},
       baichuan},
      {"chatglm",
       {"ChatGLMModel", "ChatGLMForConditionalGeneration"},
       "hidden_size: 4096, num_hidden_layers: 28, intermediate_size: 13696, num_attention_heads: "
       "32, "
       "head_dim: 128, vocab_size: 65024, max_position_embeddings: 2048, partial_rotary_factor: "
       "0.5",
       {"multi_query_attention", "multi_query_group_num", "add_bias_linear", "add_qkv_bias",
        "post_layer_norm", "rmsnorm"},
       chatglm},
      {"internlm",
       {"InternLMForCausalLM"},
       "hidden_size: 4096, num_hidden_layers: 32, intermediate_size: 11008, num_attention_heads: "
       "32, "
       "vocab_size: 103168, max_position_embeddings: 2048, rms_norm_eps: 1e-6",
       {act, "bias"},
       internlm},
      {"internlm2",
       {"InternLM2ForCausalLM"},
       "hidden_size: 4096, num_hidden_layers: 32, intermediate_size: 11008, num_attention_heads: "
       "32, "
       "vocab_size: 103168, max_position_embeddings: 2048, rms_norm_eps: 1e-6",
       {act, "bias"},
       internlm},
      // No class was found to check it against: treated as Llama.
      {"aquila",
       {"AquilaForCausalLM"},
       "hidden_size: 4096, num_hidden_layers: 32, intermediate_size: 11008, num_attention_heads: "
       "32, "
       "vocab_size: 100008, max_position_embeddings: 2048, rms_norm_eps: 1e-6",
       {act, "attention_bias"},
       llama},
  };
  return families;
}

#undef LLMPLAN_GPT

}  // namespace llmplan
