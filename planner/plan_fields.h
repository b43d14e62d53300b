// The fields of everything that a plan file holds, once: the writer and the reader of plan.json walk
// these lists. A field added to a struct is added here and nowhere else; a test notices if not.
#pragma once

#include <tuple>

#include "costmodel/op_fields.h"
#include "planner/plan.h"

namespace llmplan::plan_file {

template <class T, class M>
struct Field {
  const char* key;
  M T::*member;
  bool unknown_below_zero = false;  // a negative number means "not known" and is null in the file
};
template <class T, class M>
Field(const char*, M T::*) -> Field<T, M>;
template <class T, class M>
Field(const char*, M T::*, bool) -> Field<T, M>;

template <class T> struct Fields;  // of T: its list, and what messages call it

template <> struct Fields<RopeScaling> {
  using T = RopeScaling;
  static constexpr const char* name = "rope_scaling";
  static constexpr auto list = std::tuple{
      Field{"rope_type", &T::rope_type}, Field{"factor", &T::factor}, Field{"low_freq_factor", &T::low_freq_factor},
      Field{"high_freq_factor", &T::high_freq_factor},
      Field{"original_max_position_embeddings", &T::original_max_position_embeddings}};
};

template <> struct Fields<ModelConfig> {
  using T = ModelConfig;
  static constexpr const char* name = "model";
  static constexpr auto list = std::tuple{
      Field{"name", &T::name}, Field{"model_type", &T::model_type}, Field{"hidden_size", &T::hidden_size},
      Field{"num_hidden_layers", &T::num_hidden_layers}, Field{"intermediate_size", &T::intermediate_size},
      Field{"num_attention_heads", &T::num_attention_heads}, Field{"num_key_value_heads", &T::num_key_value_heads},
      Field{"head_dim", &T::head_dim}, Field{"vocab_size", &T::vocab_size},
      Field{"max_position_embeddings", &T::max_position_embeddings},
      Field{"tie_word_embeddings", &T::tie_word_embeddings}, Field{"rms_norm_eps", &T::rms_norm_eps},
      Field{"rope_theta", &T::rope_theta}, Field{"rope_scaling", &T::rope_scaling},
      Field{"mlp", &T::mlp}, Field{"norm", &T::norm}, Field{"positions", &T::positions},
      Field{"qkv_bias", &T::qkv_bias}, Field{"attention_out_bias", &T::attention_out_bias},
      Field{"mlp_bias", &T::mlp_bias}, Field{"norm_bias", &T::norm_bias}, Field{"norm_affine", &T::norm_affine},
       Field{"lm_head_bias", &T::lm_head_bias},
      Field{"qk_norm", &T::qk_norm}, Field{"embedding_norm", &T::embedding_norm}, Field{"final_norm", &T::final_norm},
      Field{"norms_per_layer", &T::norms_per_layer}, Field{"position_rows", &T::position_rows},
      Field{"embedding_proj_dim", &T::embedding_proj_dim}, Field{"parallel_attn", &T::parallel_attn},
      Field{"partial_rotary_factor", &T::partial_rotary_factor}, Field{"sliding_window", &T::sliding_window},
      Field{"sliding_window_pattern", &T::sliding_window_pattern},
      Field{"num_experts", &T::num_experts}, Field{"num_experts_per_tok", &T::num_experts_per_tok},
      Field{"moe_intermediate_size", &T::moe_intermediate_size},
      Field{"shared_expert_intermediate_size", &T::shared_expert_intermediate_size},
      Field{"shared_expert_gate", &T::shared_expert_gate}, Field{"router_bias", &T::router_bias},
      Field{"first_k_dense_replace", &T::first_k_dense_replace}, Field{"moe_layer_freq", &T::moe_layer_freq},
      Field{"moe_layer_offset", &T::moe_layer_offset}, Field{"mlp_only_layers", &T::mlp_only_layers},
      Field{"q_lora_rank", &T::q_lora_rank}, Field{"kv_lora_rank", &T::kv_lora_rank},
      Field{"qk_nope_head_dim", &T::qk_nope_head_dim}, Field{"qk_rope_head_dim", &T::qk_rope_head_dim},
      Field{"v_head_dim", &T::v_head_dim}, Field{"num_nextn_predict_layers", &T::num_nextn_predict_layers}};
};

template <> struct Fields<Contention> {
  using T = Contention;
  static constexpr const char* name = "contention";
  static constexpr auto list = std::tuple{Field{"work", &T::work}, Field{"beside", &T::beside}, Field{"slowdown", &T::slowdown}};
};

template <> struct Fields<Device> {  // bytes, seconds, and both per second
  using T = Device;
  static constexpr const char* name = "device";
  static constexpr auto list = std::tuple{
      Field{"name", &T::name}, Field{"cpu", &T::cpu}, Field{"cores", &T::cores}, Field{"memory", &T::memory},
      Field{"reserve", &T::reserve}, Field{"peak", &T::peak}, Field{"vector_peak", &T::vector_peak},
      Field{"memory_bandwidth", &T::memory_bandwidth}, Field{"gemm_efficiency", &T::gemm_efficiency},
      Field{"attention_efficiency", &T::attention_efficiency}, Field{"fa2_rate", &T::fa2_rate},
      Field{"memory_efficiency", &T::memory_efficiency},
      Field{"launch", &T::launch}, Field{"sms", &T::sms}, Field{"host_bandwidth", &T::host_bandwidth},
      Field{"measured", &T::measured}, Field{"contention", &T::contention}, Field{"price_per_hour", &T::price_per_hour}};
};

template <> struct Fields<Link> {
  using T = Link;
  static constexpr const char* name = "link";
  static constexpr auto list = std::tuple{Field{"name", &T::name}, Field{"bandwidth", &T::bandwidth},
                                          Field{"latency", &T::latency}, Field{"efficiency", &T::efficiency},
                                          Field{"setup", &T::setup},
                                          Field{"reduces_in_switch", &T::reduces_in_switch},
                                          Field{"peers", &T::peers}, Field{"ports", &T::ports},
                                          Field{"peer_stores", &T::peer_stores}};
};

template <> struct Fields<Tier> {
  using T = Tier;
  static constexpr const char* name = "tier";
  static constexpr auto list = std::tuple{Field{"devices", &T::devices}, Field{"link", &T::link}};
};

template <> struct Fields<Part> {
  using T = Part;
  static constexpr const char* name = "part";
  static constexpr auto list = std::tuple{Field{"nodes", &T::nodes}, Field{"device", &T::device}, Field{"intra", &T::intra}};
};

template <> struct Fields<Cluster> {
  using T = Cluster;
  static constexpr const char* name = "cluster";
  static constexpr auto list = std::tuple{
      Field{"name", &T::name}, Field{"nodes", &T::nodes}, Field{"devices_per_node", &T::devices_per_node},
      Field{"device", &T::device}, Field{"intra", &T::intra}, Field{"inter", &T::inter}, Field{"tiers", &T::tiers},
      Field{"parts", &T::parts}};
};

template <> struct Fields<Optimizer> {
  using T = Optimizer;
  static constexpr const char* name = "optimizer";
  static constexpr auto list = std::tuple{
      Field{"kind", &T::kind}, Field{"lr", &T::lr}, Field{"min_lr", &T::min_lr}, Field{"warmup_steps", &T::warmup_steps},
      Field{"beta1", &T::beta1}, Field{"beta2", &T::beta2}, Field{"eps", &T::eps},
      Field{"weight_decay", &T::weight_decay}, Field{"clip", &T::clip}, Field{"loss_scale", &T::loss_scale},
      Field{"loss_scale_window", &T::loss_scale_window}};
};

template <> struct Fields<Workload> {
  using T = Workload;
  static constexpr const char* name = "workload";
  static constexpr auto list = std::tuple{
      Field{"seq", &T::seq}, Field{"global_batch", &T::global_batch}, Field{"tokens", &T::tokens},
      Field{"precision", &T::precision}, Field{"optimizer", &T::optimizer},
      Field{"documents", &T::documents}, Field{"runtime", &T::runtime}, Field{"seed", &T::seed}};
};

template <> struct Fields<Offload> {
  using T = Offload;
  static constexpr const char* name = "offload";
  static constexpr auto list = std::tuple{Field{"optimizer", &T::optimizer}, Field{"gradients", &T::gradients},
                                          Field{"weights", &T::weights}, Field{"activations", &T::activations}};
};

template <> struct Fields<ZeroGroups> {
  using T = ZeroGroups;
  static constexpr const char* name = "zero_groups";
  static constexpr auto list = std::tuple{Field{"shard", &T::shard}, Field{"secondary", &T::secondary},
                                          Field{"weight_bits", &T::weight_bits}, Field{"gradient_bits", &T::gradient_bits}};
};

template <> struct Fields<Strategy> {
  using T = Strategy;
  static constexpr const char* name = "strategy";
  static constexpr auto list = std::tuple{
      Field{"tp", &T::tp}, Field{"pp", &T::pp}, Field{"vpp", &T::vpp}, Field{"cp", &T::cp}, Field{"ep", &T::ep},
      Field{"dp", &T::dp}, Field{"etp", &T::etp}, Field{"zero", &T::zero}, Field{"zero_groups", &T::zero_groups}, Field{"sp", &T::sp}, Field{"micro_batch", &T::micro_batch},
      Field{"recompute", &T::recompute}, Field{"recompute_layers", &T::recompute_layers},
      Field{"schedule", &T::schedule}, Field{"layers_per_stage", &T::layers_per_stage},
      Field{"attention", &T::attention}, Field{"offload", &T::offload}, Field{"grad_bucket", &T::grad_bucket}};
};

template <> struct Fields<Prediction> {  // keys as in report.json
  using T = Prediction;
  static constexpr const char* name = "prediction";
  static constexpr auto list = std::tuple{
      Field{"step", &T::step}, Field{"tokens_per_s", &T::tokens_per_s},
      Field{"tflops_per_device", &T::tflops_per_device}, Field{"mfu", &T::mfu, true},
      Field{"arena_bytes", &T::arena}, Field{"peak_memory", &T::peak_memory}};
};

// Calls visit(field) for each field of T.
template <class T, class Visit>
void for_each(Visit&& visit) {
  std::apply([&](const auto&... field) { (visit(field), ...); }, Fields<T>::list);
}

// Whether the list of T names every member; a test asks for each struct of a plan.
template <class T>
constexpr bool complete = op_fields_detail::members<T>() == std::tuple_size_v<decltype(Fields<T>::list)>;

}  // namespace llmplan::plan_file
