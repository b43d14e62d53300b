#include "costmodel/profiles/model_fields.h"

#include <algorithm>
#include <limits>

#include <fmt/format.h>

#include "costmodel/profiles/profiles.h"
#include "costmodel/profiles/quantity.h"

namespace llmplan {

using M = ModelConfig;

const std::vector<ModelField>& model_fields() {
  static const std::vector<ModelField> fields = {
      {{"hidden_size", "n_embd", "d_model", "n_embed"}, &M::hidden_size},
      {{"num_hidden_layers", "n_layer", "num_layers", "n_layers"}, &M::num_hidden_layers},
      {{"intermediate_size", "n_inner", "ffn_dim", "ffn_hidden_size"}, &M::intermediate_size},
      {{"num_attention_heads", "n_head", "n_heads"}, &M::num_attention_heads},
      {{"num_key_value_heads", "num_kv_heads", "n_head_kv"}, &M::num_key_value_heads},
      {{"head_dim", "kv_channels"}, &M::head_dim},
      {{"vocab_size", "padded_vocab_size"}, &M::vocab_size},
      {{"max_position_embeddings", "n_positions", "n_ctx", "seq_length", "model_max_length",
        "max_seq_len"},
       &M::max_position_embeddings},
      {{"tie_word_embeddings"}, &M::tie_word_embeddings},
      {{"rms_norm_eps", "layer_norm_epsilon", "layer_norm_eps", "layernorm_epsilon"},
       &M::rms_norm_eps},
      {{"rope_theta", "rotary_emb_base"}, &M::rope_theta},
      {{"partial_rotary_factor", "rotary_pct"}, &M::partial_rotary_factor},
      {{"sliding_window"}, &M::sliding_window},
      {{"sliding_window_pattern"}, &M::sliding_window_pattern},
      {{"mlp"}, &M::mlp},
      {{"norm"}, &M::norm},
      {{"positions"}, &M::positions},
      {{"qkv_bias"}, &M::qkv_bias},
      {{"attention_out_bias"}, &M::attention_out_bias},
      {{"mlp_bias"}, &M::mlp_bias},
      {{"norm_bias"}, &M::norm_bias},
      {{"lm_head_bias"}, &M::lm_head_bias},
      {{"qk_norm", "use_qk_norm"}, &M::qk_norm},
      {{"embedding_norm"}, &M::embedding_norm},
      {{"final_norm"}, &M::final_norm},
      {{"norm_affine"}, &M::norm_affine},
      {{"norms_per_layer"}, &M::norms_per_layer},
      {{"position_rows"}, &M::position_rows},
      {{"embedding_proj_dim", "word_embed_proj_dim"}, &M::embedding_proj_dim},
      {{"parallel_attn", "use_parallel_residual"}, &M::parallel_attn},
      {{"num_experts", "num_local_experts", "n_routed_experts"}, &M::num_experts},
      {{"num_experts_per_tok", "top_k"}, &M::num_experts_per_tok},
      {{"moe_intermediate_size"}, &M::moe_intermediate_size},
      {{"shared_expert_intermediate_size"}, &M::shared_expert_intermediate_size},
      {{"shared_expert_gate"}, &M::shared_expert_gate},
      {{"router_bias"}, &M::router_bias},
      {{"first_k_dense_replace"}, &M::first_k_dense_replace},
      {{"moe_layer_freq", "decoder_sparse_step"}, &M::moe_layer_freq},
      {{"moe_layer_offset"}, &M::moe_layer_offset},
      {{"q_lora_rank"}, &M::q_lora_rank},
      {{"kv_lora_rank"}, &M::kv_lora_rank},
      {{"qk_nope_head_dim"}, &M::qk_nope_head_dim},
      {{"qk_rope_head_dim"}, &M::qk_rope_head_dim},
      {{"v_head_dim"}, &M::v_head_dim},
      {{"num_nextn_predict_layers"}, &M::num_nextn_predict_layers},
  };
  return fields;
}

namespace {

constexpr std::int64_t int64_most = std::numeric_limits<std::int64_t>::max();

// A value by its name among name_of(0), name_of(1), …
template <class E>
E read_enum(const Node& n, const std::string& key, int count) {
  const std::string text = read_text(n, key);
  std::vector<std::string> names;
  for (int i = 0; i < count; ++i) {
    names.emplace_back(name_of(static_cast<E>(i)));
    if (names.back() == text) return static_cast<E>(i);
  }
  fail(n, "E0112", fmt::format("{} cannot be '{}'", key, text.substr(0, 60)),
       did_you_mean(text, names, fmt::format("valid: {}", fmt::join(names, ", "))));
}

void set(ModelConfig& m, const ModelField::Member& member, const Node& n, const std::string& key) {
  struct Setter {
    ModelConfig& m;
    const Node& n;
    const std::string& key;
    // Impossible values are left to check(), which knows each member's range.
    void operator()(std::int64_t M::*p) const { m.*p = read_integer(n, key, 0, int64_most); }
    void operator()(int M::*p) const { m.*p = static_cast<int>(read_integer(n, key, 0, 1000)); }
    void operator()(double M::*p) const { m.*p = read_number(n, key); }
    void operator()(bool M::*p) const { m.*p = read_bool(n, key); }
    void operator()(Mlp M::*p) const { m.*p = read_enum<Mlp>(n, key, 5); }
    void operator()(Norm M::*p) const { m.*p = read_enum<Norm>(n, key, 2); }
    void operator()(Positions M::*p) const { m.*p = read_enum<Positions>(n, key, 4); }
  };
  std::visit(Setter{m, n, key}, member);
}

// transformers reads an explicit null as "none": no window, no query latent, as many key/value
// heads as heads.
void apply_null(ModelConfig& m, const ModelField& field, const Node& root) {
  const auto* member = std::get_if<std::int64_t ModelConfig::*>(&field.member);
  if (!member) return;
  for (const std::string& key : field.keys)
    if (const Node* n = root.find(key); n && n->kind == Node::Kind::null) m.*(*member) = 0;
}

// The key under which a field is given, or nullptr. Two names for one thing are a contradiction
// waiting.
const Node* given(const Node& root, const ModelField& field, bool strict) {
  const Node* found = nullptr;
  for (const std::string& key : field.keys) {
    const Node* k = root.find_key(key);
    if (!k || root.find(key)->kind == Node::Kind::null) continue;
    if (found && strict)
      fail(*k, "E0103", fmt::format("'{}' and '{}' mean the same", found->text, key),
           fmt::format("first in line {}; keep one of them", found->line));
    if (!found) found = k;
  }
  return found;
}

void read_rope_scaling(const Node& n, ModelConfig& m, bool strict) {
  require(n, Node::Kind::map, "rope_scaling");
  if (strict)
    only_keys(n,
              {"rope_type", "type", "factor", "low_freq_factor", "high_freq_factor",
               "original_max_position_embeddings", "rope_theta", "partial_rotary_factor",
               "beta_fast", "beta_slow", "mscale", "mscale_all_dim", "attention_factor",
               "long_factor", "short_factor"},
              "rope_scaling");
  RopeScaling& r = m.rope_scaling;
  for (const char* key : {"type", "rope_type"})
    if (const Node* v = n.find(key); v && v->kind != Node::Kind::null)
      r.rope_type = read_text(*v, key);
  if (r.rope_type == "su") r.rope_type = "longrope";  // what Phi-3's first configs call it
  const auto number = [&](const char* key, double& to) {
    if (const Node* v = n.find(key); v && v->kind != Node::Kind::null) to = read_number(*v, key);
  };
  number("factor", r.factor);
  number("low_freq_factor", r.low_freq_factor);
  number("high_freq_factor", r.high_freq_factor);
  number("rope_theta", m.rope_theta);
  number("partial_rotary_factor", m.partial_rotary_factor);
  if (const Node* v = n.find("original_max_position_embeddings"); v && v->kind != Node::Kind::null)
    r.original_max_position_embeddings =
        read_integer(*v, "original_max_position_embeddings", 1, std::int64_t{1} << 40);
  const std::vector<std::string> known = {"default", "linear", "dynamic",
                                          "yarn",    "llama3", "longrope"};
  if (strict && std::find(known.begin(), known.end(), r.rope_type) == known.end())
    fail(n, "E0112", fmt::format("rope_type cannot be '{}'", r.rope_type),
         did_you_mean(r.rope_type, known, fmt::format("valid: {}", fmt::join(known, ", "))));
}

const ModelFamily& family_of(const Node& root) {
  std::string type;
  const Node* at = root.find("model_type");
  if (at && at->kind != Node::Kind::null) {
    type = read_text(*at, "model_type");
    if (const ModelFamily* f = find_family(type)) return *f;
  }
  if (const Node* a = root.find("architectures");
      a && a->kind == Node::Kind::list && !a->items.empty()) {
    const std::string name = a->items[0].text;
    for (const ModelFamily& f : model_families())
      if (std::find(f.architectures.begin(), f.architectures.end(), name) != f.architectures.end())
        return f;
    if (type.empty()) {
      type = name;
      at = &a->items[0];
    }
  }
  std::vector<std::string> known;
  for (const ModelFamily& f : model_families()) known.emplace_back(f.model_type);
  if (type.empty())
    fail(root, "E0106", "the model lacks 'model_type'",
         fmt::format("add one of: {}", fmt::join(known, ", ")));
  fail(*at, "E0203", fmt::format("model_type '{}' is not supported", type.substr(0, 60)),
       did_you_mean(type, known, fmt::format("supported: {}", fmt::join(known, ", "))));
}

}  // namespace

const ModelFamily* find_family(const std::string& model_type) {
  for (const ModelFamily& f : model_families())
    if (f.model_type == model_type) return &f;
  return nullptr;
}

ModelConfig read_model_config(const Node& whole, bool strict, const std::string& name) {
  require(whole, Node::Kind::map, "a model");
  // Models that also see or hear keep their language model in text_config.
  const Node* text = strict ? nullptr : whole.find("text_config");
  const Node& root = text && text->kind == Node::Kind::map ? *text : whole;
  const ModelFamily& family = family_of(root);
  if (strict) {
    std::vector<std::string> keys = {"name",         "model_type",      "architectures",
                                     "rope_scaling", "mlp_only_layers", "source"};
    for (const ModelField& f : model_fields())
      keys.insert(keys.end(), f.keys.begin(), f.keys.end());
    keys.insert(keys.end(), family.extra_keys.begin(), family.extra_keys.end());
    only_keys(root, keys, "a model");
  }
  ModelConfig m;
  const Node defaults = parse_yaml(fmt::format("{{{}}}", family.defaults), "defaults");
  for (const ModelField& field : model_fields())
    if (const Node* n = defaults.find(field.keys[0])) set(m, field.member, *n, field.keys[0]);
  m.model_type = family.model_type;
  m.name = name;
  if (const Node* n = root.find("name"); strict && n) m.name = read_text(*n, "name");
  if (strict) {  // our own files say what a model is made of; only config.json relies on its class
    for (auto dimension :
         {&M::hidden_size, &M::num_hidden_layers, &M::intermediate_size, &M::num_attention_heads,
          &M::num_key_value_heads, &M::vocab_size, &M::max_position_embeddings})
      m.*dimension = 0;
  }
  for (const ModelField& field : model_fields()) {
    if (const Node* key = given(root, field, strict))
      set(m, field.member, *root.find(key->text), key->text);
    else
      apply_null(m, field, root);
  }
  if (strict) {
    for (const ModelField& field : model_fields()) {
      const auto* member = std::get_if<std::int64_t M::*>(&field.member);
      const bool needed =
          member && (*member == &M::hidden_size || *member == &M::num_hidden_layers ||
                     *member == &M::num_attention_heads || *member == &M::vocab_size);
      if (needed && !given(root, field, true))
        fail(root, "E0106", fmt::format("the model lacks '{}'", field.keys[0]),
             fmt::format("add a line `{}: …`", field.keys[0]));
    }
  }
  for (const char* key :
       {"rope_scaling", "rope_parameters"})  // the latter is transformers 5's name
    if (const Node* n = root.find(key); n && n->kind != Node::Kind::null)
      read_rope_scaling(*n, m, strict);
  if (const Node* n = root.find("mlp_only_layers"); n && n->kind != Node::Kind::null) {
    require(*n, Node::Kind::list, "mlp_only_layers");
    m.mlp_only_layers.clear();
    for (const Node& item : n->items)
      m.mlp_only_layers.push_back(read_integer(item, "mlp_only_layers", 0, 100'000));
  }
  if (&root != &whole && !root.find("tie_word_embeddings"))
    if (const Node* n = whole.find("tie_word_embeddings"); n && n->kind != Node::Kind::null)
      m.tie_word_embeddings = read_bool(*n, "tie_word_embeddings");
  if (family.finish) family.finish(root, m);
  if (m.num_key_value_heads == 0) m.num_key_value_heads = m.num_attention_heads;
  if (m.head_dim == 0 && m.num_attention_heads > 0) {
    if (m.hidden_size % m.num_attention_heads != 0) {
      const Node* at = root.find("num_attention_heads");
      fail(at ? *at : root, "E0202",
           fmt::format("hidden_size {} is not a multiple of {} attention heads", m.hidden_size,
                       m.num_attention_heads),
           "change one of them, or give head_dim");
    }
    m.head_dim = m.hidden_size / m.num_attention_heads;
  }
  if (m.positions == Positions::learned && m.position_rows == 0)
    m.position_rows = m.max_position_embeddings;
  if (const ModelProblem p = find_problem(m); !p.field.empty()) {
    const Node* at = nullptr;
    for (const ModelField& field : model_fields())
      if (field.keys[0] == p.field)
        if (const Node* key = given(root, field, false)) at = root.find(key->text);
    fail(at ? *at : root, "E0202", p.message, p.hint);
  }
  return m;
}

}  // namespace llmplan
