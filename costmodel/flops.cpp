// FLOPs of one step of the whole model, by the two conventions in use.
//
// A linear of P weights does 2P FLOPs per token forward, 2P for its input's gradient and 2P for its own
// (Kaplan et al. 2020, §2.1). Attention does 2·pairs·d for QKᵀ and for PV per head, and twice that backward;
// `pairs` is s² for Megatron's convention (Narayanan et al. 2021), s(s+1)/2 for what a causal mask needs.
// Embedding look-ups and pointwise work are not counted.
#include <algorithm>

#include "costmodel/estimate.h"
#include "costmodel/flops.h"

namespace llmplan {
namespace {

double d(std::int64_t n) { return static_cast<double>(n); }

// Weights that a token multiplies in one layer's attention block.
double attention_weights(const ModelConfig& m) {
  const double h = d(m.hidden_size), a = d(m.num_attention_heads);
  if (m.kv_lora_rank > 0) {  // DeepSeek's multi-head latent attention
    const double qk = d(m.qk_nope_head_dim + m.qk_rope_head_dim), kv = d(m.kv_lora_rank), ql = d(m.q_lora_rank);
    const double q = m.q_lora_rank > 0 ? h * ql + ql * a * qk : h * a * qk;
    return q + h * (kv + d(m.qk_rope_head_dim)) + kv * a * d(m.qk_nope_head_dim + m.v_head_dim) +
           a * d(m.v_head_dim) * h;
  }
  return h * d(m.head_dim) * (2 * a + 2 * d(m.num_key_value_heads));
}

double dense_mlp_weights(const ModelConfig& m) {
  return d(m.hidden_size) * d(m.intermediate_size) * (is_gated(m.mlp) ? 3 : 2);
}

double moe_mlp_weights(const ModelConfig& m) {  // active ones
  const double h = d(m.hidden_size), matrices = is_gated(m.mlp) ? 3 : 2;
  return h * d(m.num_experts) +
         matrices * h * (d(m.num_experts_per_tok) * d(m.moe_intermediate_size) + d(m.shared_expert_intermediate_size)) +
         (m.shared_expert_gate ? h : 0);
}

}  // namespace

ForwardFlops forward_flops(const ModelConfig& m, std::int64_t seq) {
  const double s = d(seq), layers = d(m.num_hidden_layers);
  const double qk_dim = m.kv_lora_rank > 0 ? d(m.qk_nope_head_dim + m.qk_rope_head_dim) : d(m.head_dim);
  const double v_dim = m.kv_lora_rank > 0 ? d(m.v_head_dim) : d(m.head_dim);
  ForwardFlops f;
  f.attention_linears = 2 * layers * attention_weights(m);
  const double moe = m.num_experts > 0 ? d(moe_layers(m)) : 0;
  f.mlp = 2 * ((layers - moe) * dense_mlp_weights(m) + (moe > 0 ? moe * moe_mlp_weights(m) : 0));
  f.attention_full = 2 * layers * d(m.num_attention_heads) * (qk_dim + v_dim) * s;
  f.attention_causal = f.attention_full * (s + 1) / (2 * s);
  f.head = 2 * d(m.hidden_size) * d(m.vocab_size);
  return f;
}

StepFlops step_flops(const ModelConfig& m, const Workload& w, const Strategy& s) {
  const std::int64_t seq = sequence_length(m, w);
  const double tokens = d(w.global_batch) * d(seq), layers = d(m.num_hidden_layers);
  const ForwardFlops f = forward_flops(m, seq);
  const double linears = f.attention_linears + f.mlp + f.head;
  StepFlops total;
  total.model_causal = {3 * tokens * (linears + f.attention_causal)};
  total.model_full = {3 * tokens * (linears + f.attention_full)};
  double again = 0;  // per token
  if (s.recompute == Recompute::selective) {
    again = f.attention_causal;  // Korthikanti et al. 2022: the attention core
  } else if (s.recompute == Recompute::full) {
    double share = 1;
    if (s.recompute_layers > 0) {
      double recomputed = 0;
      for (std::int64_t n : layer_split(s, m.num_hidden_layers)) recomputed += d(std::min(n, s.recompute_layers));
      share = recomputed / layers;
    }
    again = share * (f.attention_linears + f.mlp + f.attention_causal);
  }
  total.hardware = {total.model_causal.value + tokens * again};
  return total;
}

FlopsByKind flops_by_kind(const ModelConfig& m, const Workload& w, const Strategy& s) {
  const std::int64_t seq = sequence_length(m, w);
  const double trained = 3 * d(w.global_batch) * d(seq);  // tokens, forward and twice as much backward
  const ForwardFlops f = forward_flops(m, seq);
  const StepFlops all = step_flops(m, w, s);
  return {{trained * f.attention_linears}, {trained * f.attention_causal}, {trained * f.mlp}, {trained * f.head},
          {all.hardware.value - all.model_causal.value}};
}

}  // namespace llmplan
