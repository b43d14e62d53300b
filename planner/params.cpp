// The flat buffers of a stage: which weight tensor of the model sits where.
#include <algorithm>
#include <string>

#include "planner/builder.h"

namespace llmplan::lowering {
namespace {

struct Declaration {
  Builder& b;
  std::int64_t end = 0;

  // `out` and `in` are the whole tensor's; tp_dim says which of the two tp divides (-1: neither).
  void matrix(const std::string& name, std::int64_t out, std::int64_t in, int tp_dim, bool counted = true) {
    Param p;
    p.name = name;
    p.full_shape = p.shape = {out, in};
    p.tp_dim = tp_dim;
    p.shape[tp_dim] = (p.shape[tp_dim] + b.shape.tp - 1) / b.shape.tp;
    add(std::move(p), counted);
  }
  void vector(const std::string& name, std::int64_t n) {
    Param p;
    p.name = name;
    p.full_shape = p.shape = {n};
    p.decay = false;
    add(std::move(p), true);
  }
  // A bucket ends with padding, whose gradient is zero and stays so.
  void begin_bucket(std::int64_t final_after) {
    for (std::size_t k = 0; k < b.final_after.size(); ++k)
      if (b.final_after[k] == final_after) end = b.program.buckets[k].begin;
  }
  // What was declared since `begin`, as one matrix of `in` columns.
  Weight since(std::int64_t begin, std::int64_t in) const { return {begin, (end - begin) / in, in, false}; }

 private:
  void add(Param p, bool counted) {
    p.begin = end;
    p.counted = counted;
    end += p.elements();
    b.program.params.push_back(std::move(p));
  }
};

BufferId persistent(Builder& b, const char* name, std::int64_t elements, DType dtype, Category category) {
  b.program.buffers.push_back({name, {elements * size_of(dtype)}, dtype, Space::device, true, category});
  return static_cast<BufferId>(b.program.buffers.size()) - 1;
}

// Program::buckets, and after what each is final; the elements of all.
std::int64_t declare_buckets(Builder& b) {
  const block::Buckets list = block::buckets_of(b.shape, {b.stage.index, b.stage.count, b.stage.layers});
  std::int64_t begin = list.elements(), layer = b.stage.layers;
  for (std::size_t r = 0; r < list.runs.size(); ++r)
    for (std::int64_t k = 0; k < list.runs[r].count; ++k) {
      const block::BucketRun& run = list.runs[r];
      begin -= run.elements, layer -= run.layers;
      b.program.buckets.push_back({begin, run.elements});
      b.final_after.push_back(begin > 0 ? layer : kEndOfPass);
    }
  std::reverse(b.program.buckets.begin(), b.program.buckets.end());
  std::reverse(b.final_after.begin(), b.final_after.end());
  return list.elements();
}

}  // namespace

void declare_parameters(Builder& b) {
  const ModelConfig& m = b.plan.model;
  const std::int64_t h = m.hidden_size;
  const std::int64_t n = declare_buckets(b);
  Declaration declare{b};

  const bool tied_copy = m.tie_word_embeddings && b.stage.last() && !b.stage.first();
  if (b.stage.first() || tied_copy) {
    // A tied head away from the embedding is a copy, kept equal by summing both gradients.
    declare.matrix("model.embed_tokens.weight", m.vocab_size, h, 0, !tied_copy);
    (tied_copy ? b.weights.head : b.weights.embedding) = declare.since(0, h);
  }

  b.weights.norms_begin = declare.end;
  b.weights.layers.resize(static_cast<std::size_t>(b.stage.layers));
  for (std::int64_t i = 0; i < b.stage.layers; ++i) {
    const std::string prefix = "model.layers." + std::to_string(b.stage.first_layer + i) + ".";
    LayerWeights& w = b.weights.layers[i];
    std::int64_t begin = declare.end;
    declare.vector(prefix + "input_layernorm.weight", h);
    w.norm1 = declare.since(begin, h);
    begin = declare.end;
    declare.vector(prefix + "post_attention_layernorm.weight", h);
    w.norm2 = declare.since(begin, h);
  }
  if (b.stage.last()) {
    const std::int64_t begin = declare.end;
    declare.vector("model.norm.weight", h);
    b.weights.final_norm = declare.since(begin, h);
  }
  b.weights.norms_end = declare.end;

  for (std::int64_t i = 0; i < b.stage.layers; ++i) {
    declare.begin_bucket(i);
    const std::string prefix = "model.layers." + std::to_string(b.stage.first_layer + i) + ".";
    const std::int64_t attn = m.num_attention_heads * m.head_dim, kv = m.num_key_value_heads * m.head_dim;
    LayerWeights& w = b.weights.layers[i];
    std::int64_t begin = declare.end;
    declare.matrix(prefix + "self_attn.q_proj.weight", attn, h, 0);
    declare.matrix(prefix + "self_attn.k_proj.weight", kv, h, 0);
    declare.matrix(prefix + "self_attn.v_proj.weight", kv, h, 0);
    w.qkv = declare.since(begin, h);
    begin = declare.end;
    declare.matrix(prefix + "self_attn.o_proj.weight", h, attn, 1);
    w.o = declare.since(begin, b.shape.attn);
    begin = declare.end;
    declare.matrix(prefix + "mlp.gate_proj.weight", m.intermediate_size, h, 0);
    declare.matrix(prefix + "mlp.up_proj.weight", m.intermediate_size, h, 0);
    w.gate_up = declare.since(begin, h);
    begin = declare.end;
    declare.matrix(prefix + "mlp.down_proj.weight", h, m.intermediate_size, 1);
    w.down = declare.since(begin, b.shape.ffn);
  }
  if (b.stage.last() && !m.tie_word_embeddings) {
    declare.begin_bucket(b.stage.layers);
    const std::int64_t begin = declare.end;
    declare.matrix("lm_head.weight", m.vocab_size, h, 0);
    b.weights.head = declare.since(begin, h);
  }

  const std::int64_t shards = b.shape.shards;
  Program& p = b.program;
  p.weights = persistent(b, "weights", n, b.shape.dtype, Category::weights);
  p.gradients = persistent(b, "gradients", n, DType::fp32, Category::gradients);
  const DType moments = b.shape.lean ? b.shape.dtype : DType::fp32;
  p.moment1 = persistent(b, "moment1", n / shards, moments, Category::optimizer);
  p.moment2 = persistent(b, "moment2", n / shards, moments, Category::optimizer);
  if (b.shape.dtype != DType::fp32 && !b.shape.lean)
    p.master = persistent(b, "master", n / shards, DType::fp32, Category::optimizer);
  p.rope_table = persistent(b, "rope_table", b.shape.seq * b.shape.head_dim, DType::fp32, Category::buffers);
  p.stats = persistent(b, "stats", 3, DType::fp64, Category::buffers);
  if (b.shape.scaled()) p.loss_scaling = persistent(b, "loss_scaling", kLossScaling, DType::fp64, Category::buffers);
}

}  // namespace llmplan::lowering
