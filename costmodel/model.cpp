#include "costmodel/model.h"

#include <algorithm>
#include <cmath>

#include "costmodel/error.h"
#include "costmodel/model_names.h"

namespace llmplan {
namespace {

// A tensor before its name is put together: counting needs no strings.
struct Piece {
  std::string_view name, suffix;   // "mlp.up_proj", ".weight"
  std::int64_t rows, columns = 0;  // columns 0: a vector
  bool expert = false, buffer = false;

  std::int64_t elements() const { return columns ? rows * columns : rows; }
};

const TensorNames& names_of(const ModelConfig& m) {
  if (m.model_type == "falcon" && m.parallel_attn && m.norms_per_layer == 2)
    return tensor_names("falcon/two_norms");
  return tensor_names(m.model_type);
}

std::int64_t embedding_width(const ModelConfig& m) {
  return m.embedding_proj_dim ? m.embedding_proj_dim : m.hidden_size;
}

// Calls emit(Piece) for weight [out, in] and bias [out].
template <class Emit>
void linear(Emit& emit, std::string_view name, std::int64_t out, std::int64_t in, bool bias,
            bool transposed = false) {
  emit(transposed ? Piece{name, ".weight", in, out} : Piece{name, ".weight", out, in});
  if (bias) emit(Piece{name, ".bias", out});
}

template <class Emit>
void norm(Emit& emit, const ModelConfig& m, std::string_view name, std::int64_t width) {
  if (!m.norm_affine) return;
  emit(Piece{name, ".weight", width});
  if (m.norm_bias) emit(Piece{name, ".bias", width});
}

// DeepSeek-V2 (arXiv:2405.04434, section 2.1): queries and keys/values pass through low-rank
// latents, and one rotary key is shared by all heads.
template <class Emit>
void latent_attention(Emit& emit, const ModelConfig& m, const TensorNames& n) {
  const std::int64_t heads = m.num_attention_heads, qk = m.qk_nope_head_dim + m.qk_rope_head_dim;
  if (m.q_lora_rank) {
    linear(emit, "self_attn.q_a_proj", m.q_lora_rank, m.hidden_size, m.qkv_bias);
    emit(Piece{"self_attn.q_a_layernorm", ".weight", m.q_lora_rank});
    linear(emit, "self_attn.q_b_proj", heads * qk, m.q_lora_rank, false);
  } else {
    linear(emit, n.q, heads * qk, m.hidden_size, false);
  }
  linear(emit, "self_attn.kv_a_proj_with_mqa", m.kv_lora_rank + m.qk_rope_head_dim, m.hidden_size,
         m.qkv_bias);
  emit(Piece{"self_attn.kv_a_layernorm", ".weight", m.kv_lora_rank});
  linear(emit, "self_attn.kv_b_proj", heads * (m.qk_nope_head_dim + m.v_head_dim), m.kv_lora_rank,
         false);
  linear(emit, n.o, m.hidden_size, heads * m.v_head_dim, m.attention_out_bias);
}

template <class Emit>
void attention(Emit& emit, const ModelConfig& m, const TensorNames& n) {
  if (m.kv_lora_rank) return latent_attention(emit, m, n);
  const std::int64_t q = m.num_attention_heads * m.head_dim,
                     kv = m.num_key_value_heads * m.head_dim;
  if (!n.qkv.empty()) {
    linear(emit, n.qkv, q + 2 * kv, m.hidden_size, m.qkv_bias, n.transposed);
  } else {
    linear(emit, n.q, q, m.hidden_size, m.qkv_bias);
    linear(emit, n.k, kv, m.hidden_size, m.qkv_bias);
    linear(emit, n.v, kv, m.hidden_size, m.qkv_bias);
  }
  if (m.qk_norm) {
    emit(Piece{"self_attn.q_norm", ".weight", m.head_dim});
    emit(Piece{"self_attn.k_norm", ".weight", m.head_dim});
  }
  linear(emit, n.o, m.hidden_size, q, m.attention_out_bias, n.transposed);
}

template <class Emit>
void dense_mlp(Emit& emit, const ModelConfig& m, const TensorNames& n) {
  const std::int64_t h = m.hidden_size, f = m.intermediate_size;
  if (is_gated(m.mlp) && !n.gate_up.empty()) {
    linear(emit, n.gate_up, 2 * f, h, m.mlp_bias, n.transposed);
  } else {
    if (is_gated(m.mlp)) linear(emit, n.gate, f, h, m.mlp_bias, n.transposed);
    linear(emit, n.up, f, h, m.mlp_bias, n.transposed);
  }
  linear(emit, n.down, h, f, m.mlp_bias, n.transposed);
}

// The router, one expert (flagged, so that the caller repeats it num_experts times), the shared
// expert.
template <class Emit>
void moe_mlp(Emit& emit, const ModelConfig& m, const TensorNames& n) {
  const std::int64_t h = m.hidden_size, f = m.moe_intermediate_size,
                     s = m.shared_expert_intermediate_size;
  linear(emit, n.router, m.num_experts, h, false);
  if (m.router_bias)
    emit(Piece{n.router, ".e_score_correction_bias", m.num_experts, 0, false, true});
  if (is_gated(m.mlp)) emit(Piece{n.expert_gate, ".weight", f, h, true});
  emit(Piece{n.expert_up, ".weight", f, h, true});
  emit(Piece{n.expert_down, ".weight", h, f, true});
  if (s) {
    if (is_gated(m.mlp)) emit(Piece{n.shared, "gate_proj.weight", s, h});
    emit(Piece{n.shared, "up_proj.weight", s, h});
    emit(Piece{n.shared, "down_proj.weight", h, s});
  }
  if (m.shared_expert_gate) emit(Piece{"mlp.shared_expert_gate", ".weight", 1, h});
}

template <class Emit>
void layer(Emit& emit, const ModelConfig& m, const TensorNames& n, bool moe) {
  attention(emit, m, n);
  if (moe)
    moe_mlp(emit, m, n);
  else
    dense_mlp(emit, m, n);
  for (int i = 0; i < m.norms_per_layer; ++i) norm(emit, m, n.norms[i], m.hidden_size);
}

template <class Emit>
void before_layers(Emit& emit, const ModelConfig& m, const TensorNames& n) {
  emit(Piece{n.embed, ".weight", m.vocab_size, embedding_width(m)});
  if (m.position_rows) {
    emit(Piece{n.positions.empty() ? "model.embed_positions" : n.positions, ".weight",
               m.position_rows, m.hidden_size});
  }
  if (m.embedding_proj_dim && m.embedding_proj_dim != m.hidden_size) {
    emit(Piece{n.project_in, ".weight", m.hidden_size, m.embedding_proj_dim});
    emit(Piece{n.project_out, ".weight", m.embedding_proj_dim, m.hidden_size});
  }
  if (m.embedding_norm)
    norm(emit, m, n.embed_norm.empty() ? "model.embed_norm" : n.embed_norm, m.hidden_size);
}

template <class Emit>
void after_layers(Emit& emit, const ModelConfig& m, const TensorNames& n) {
  if (m.final_norm) norm(emit, m, n.final_norm, m.hidden_size);
  if (!m.tie_word_embeddings) emit(Piece{n.head, ".weight", m.vocab_size, embedding_width(m)});
  if (m.lm_head_bias) emit(Piece{n.head, ".bias", m.vocab_size});
}

struct Count {
  std::int64_t shared = 0, one_expert = 0;  // of a token's way; of one expert
  void operator()(const Piece& p) {
    if (!p.buffer) (p.expert ? one_expert : shared) += p.elements();
  }
};

// All layers of a kind are alike, so one of each is counted.
std::int64_t count(const ModelConfig& m, std::int64_t experts_per_layer) {
  const TensorNames& n = names_of(m);
  const std::int64_t moe = moe_layers(m), dense = m.num_hidden_layers - moe;
  Count outside, one_moe, one_dense;
  before_layers(outside, m, n);
  after_layers(outside, m, n);
  if (moe) layer(one_moe, m, n, true);
  if (dense) layer(one_dense, m, n, false);
  return outside.shared + dense * one_dense.shared +
         moe * (one_moe.shared + experts_per_layer * one_moe.one_expert);
}

}  // namespace

bool is_moe_layer(const ModelConfig& m, std::int64_t l) {
  return m.num_experts > 0 && l >= m.first_k_dense_replace &&
         l % m.moe_layer_freq == m.moe_layer_offset &&
         !std::binary_search(m.mlp_only_layers.begin(), m.mlp_only_layers.end(), l);
}

std::int64_t moe_layers(const ModelConfig& m) {
  if (m.num_experts == 0) return 0;
  // How many of the layers 0 … n-1 have index ≡ offset (mod freq).
  const auto up_to = [&](std::int64_t n) {
    return n > m.moe_layer_offset ? (n - 1 - m.moe_layer_offset) / m.moe_layer_freq + 1 : 0;
  };
  std::int64_t n =
      std::max<std::int64_t>(0, up_to(m.num_hidden_layers) -
                                    up_to(std::min(m.first_k_dense_replace, m.num_hidden_layers)));
  for (std::int64_t l : m.mlp_only_layers) {
    n -= l >= m.first_k_dense_replace && l < m.num_hidden_layers &&
         l % m.moe_layer_freq == m.moe_layer_offset;
  }
  return n;
}

std::int64_t parameters(const ModelConfig& m) { return count(m, m.num_experts); }
std::int64_t active_parameters(const ModelConfig& m) { return count(m, m.num_experts_per_tok); }

std::vector<Tensor> tensors(const ModelConfig& m) {
  const TensorNames& n = names_of(m);
  std::vector<Tensor> out;
  const auto add = [&](const Piece& p, std::string name, int index) {
    std::vector<std::int64_t> shape{p.rows};
    if (p.columns) shape.push_back(p.columns);
    out.push_back({std::move(name), std::move(shape), index, p.expert, p.buffer});
  };
  const auto outside = [&](const Piece& p) {
    add(p, std::string(p.name) + std::string(p.suffix), -1);
  };
  before_layers(outside, m, n);
  for (std::int64_t l = 0; l < m.num_hidden_layers; ++l) {
    const std::string prefix = std::string(n.layer) + std::to_string(l) + ".";
    const int index = static_cast<int>(l);
    std::vector<Piece> expert;
    const auto inside = [&](const Piece& p) {
      if (p.expert)
        expert.push_back(p);
      else
        add(p, prefix + std::string(p.name) + std::string(p.suffix), index);
    };
    layer(inside, m, n, is_moe_layer(m, l));
    for (std::int64_t e = 0; e < (expert.empty() ? 0 : m.num_experts); ++e) {
      for (const Piece& p : expert) {
        std::string name(p.name);
        name.replace(name.find("{e}"), 3, std::to_string(e));
        add(p, prefix + name + std::string(p.suffix), index);
      }
    }
  }
  after_layers(outside, m, n);
  return out;
}

std::string_view name_of(Mlp m) {
  switch (m) {
    case Mlp::swiglu:
      return "swiglu";
    case Mlp::geglu:
      return "geglu";
    case Mlp::gelu:
      return "gelu";
    case Mlp::relu:
      return "relu";
    case Mlp::relu2:
      return "relu2";
  }
  return "?";
}
std::string_view name_of(Norm n) { return n == Norm::rms ? "rms" : "layer"; }
std::string_view name_of(Positions p) {
  switch (p) {
    case Positions::rope:
      return "rope";
    case Positions::learned:
      return "learned";
    case Positions::alibi:
      return "alibi";
    case Positions::none:
      return "none";
  }
  return "?";
}

std::string why_not_runnable(const ModelConfig& m) {
  const std::string& rope = m.rope_scaling.rope_type;
  const struct {
    bool here;
    const char* what;
  } obstacles[] = {
      {m.num_experts > 0, "mixture of experts"},
      {m.kv_lora_rank > 0, "multi-head latent attention"},
      {m.norm != Norm::rms || m.norm_bias || !m.norm_affine, "LayerNorm"},
      {m.norms_per_layer != 2 || !m.final_norm || m.embedding_norm,
       "norms placed otherwise than in Llama"},
      {m.parallel_attn, "attention and MLP in parallel"},
      {m.positions != Positions::rope || m.position_rows > 0, "positions other than RoPE"},
      {m.partial_rotary_factor != 1, "RoPE on a part of each head"},
      {m.mlp != Mlp::swiglu, "an MLP other than SwiGLU"},
      {m.qkv_bias || m.attention_out_bias || m.mlp_bias || m.lm_head_bias, "biases"},
      {m.sliding_window > 0, "a sliding attention window"},
      {m.qk_norm, "norms on queries and keys"},
      {m.embedding_proj_dim != 0 && m.embedding_proj_dim != m.hidden_size, "a projected embedding"},
      {m.head_dim % 2 != 0, "an odd head_dim, which RoPE cannot rotate"},
      {rope != "default" && rope != "linear" && rope != "dynamic" && rope != "llama3",
       "RoPE scaling other than linear, dynamic and llama3"},
  };
  std::string all;
  for (const auto& o : obstacles)
    if (o.here) all += (all.empty() ? "" : ", ") + std::string(o.what);
  return all.empty() ? "" : "it has " + all + "; run trains Llama-like decoders only";
}

}  // namespace llmplan
