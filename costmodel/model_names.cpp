#include "costmodel/model_names.h"

namespace llmplan {
namespace {

// From the checkpoints that transformers 5 writes (tests/profiles/transformers_tensors.json) and, for the
// families without a transformers class, from the modeling_*.py beside the published weights.
constexpr TensorNames families[] = {
    {.model_type = "llama"},
    {.model_type = "mixtral",
     .router = "block_sparse_moe.gate",
     .expert_gate = "block_sparse_moe.experts.{e}.w1", .expert_up = "block_sparse_moe.experts.{e}.w3",
     .expert_down = "block_sparse_moe.experts.{e}.w2"},
    {.model_type = "deepseek_v2", .shared = "mlp.shared_experts."},
    {.model_type = "deepseek_v3", .shared = "mlp.shared_experts."},
    {.model_type = "gpt2",
     .embed = "transformer.wte", .positions = "transformer.wpe",
     .layer = "transformer.h.", .final_norm = "transformer.ln_f",
     .qkv = "attn.c_attn", .o = "attn.c_proj",
     .up = "mlp.c_fc", .down = "mlp.c_proj",
     .norms = {"ln_1", "ln_2", "", ""},
     .transposed = true},
    {.model_type = "gpt_neox",
     .embed = "gpt_neox.embed_in",
     .layer = "gpt_neox.layers.", .final_norm = "gpt_neox.final_layer_norm", .head = "embed_out",
     .qkv = "attention.query_key_value", .o = "attention.dense",
     .up = "mlp.dense_h_to_4h", .down = "mlp.dense_4h_to_h"},
    {.model_type = "bloom",
     .embed = "transformer.word_embeddings", .embed_norm = "transformer.word_embeddings_layernorm",
     .layer = "transformer.h.", .final_norm = "transformer.ln_f",
     .qkv = "self_attention.query_key_value", .o = "self_attention.dense",
     .up = "mlp.dense_h_to_4h", .down = "mlp.dense_4h_to_h"},
    {.model_type = "falcon",
     .embed = "transformer.word_embeddings",
     .layer = "transformer.h.", .final_norm = "transformer.ln_f",
     .qkv = "self_attention.query_key_value", .o = "self_attention.dense",
     .up = "mlp.dense_h_to_4h", .down = "mlp.dense_4h_to_h"},
    {.model_type = "falcon/two_norms",  // new_decoder_architecture: attention and MLP have a norm each
     .embed = "transformer.word_embeddings",
     .layer = "transformer.h.", .final_norm = "transformer.ln_f",
     .qkv = "self_attention.query_key_value", .o = "self_attention.dense",
     .up = "mlp.dense_h_to_4h", .down = "mlp.dense_4h_to_h",
     .norms = {"ln_attn", "ln_mlp", "", ""}},
    {.model_type = "opt",
     .embed = "model.decoder.embed_tokens", .positions = "model.decoder.embed_positions",
     .project_in = "model.decoder.project_in", .project_out = "model.decoder.project_out",
     .layer = "model.decoder.layers.", .final_norm = "model.decoder.final_layer_norm",
     .o = "self_attn.out_proj",
     .up = "fc1", .down = "fc2",
     .norms = {"self_attn_layer_norm", "final_layer_norm", "", ""}},
    {.model_type = "baichuan", .qkv = "self_attn.W_pack"},
    {.model_type = "chatglm",
     .embed = "transformer.embedding.word_embeddings",
     .layer = "transformer.encoder.layers.", .final_norm = "transformer.encoder.final_layernorm",
     .head = "transformer.output_layer",
     .qkv = "self_attention.query_key_value", .o = "self_attention.dense",
     .down = "mlp.dense_4h_to_h", .gate_up = "mlp.dense_h_to_4h"},
    {.model_type = "internlm2",
     .embed = "model.tok_embeddings", .head = "output",
     .qkv = "attention.wqkv", .o = "attention.wo",
     .gate = "feed_forward.w1", .up = "feed_forward.w3", .down = "feed_forward.w2",
     .norms = {"attention_norm", "ffn_norm", "", ""}},
    {.model_type = "mpt",
     .embed = "transformer.wte", .positions = "transformer.wpe",
     .layer = "transformer.blocks.", .final_norm = "transformer.norm_f",
     .qkv = "attn.Wqkv", .o = "attn.out_proj",
     .up = "ffn.up_proj", .down = "ffn.down_proj",
     .norms = {"norm_1", "norm_2", "", ""}},
    {.model_type = "phi3", .qkv = "self_attn.qkv_proj", .gate_up = "mlp.gate_up_proj"},
};

}  // namespace

const TensorNames& tensor_names(std::string_view model_type) {
  for (const TensorNames& f : families)
    if (f.model_type == model_type) return f;
  return families[0];
}

}  // namespace llmplan
