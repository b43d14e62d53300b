// What each family calls its weight tensors in a Hugging Face checkpoint, and which it keeps fused.
#pragma once

#include <string_view>

namespace llmplan {

// Defaults are Llama's. A tensor's full name is layer + index + "." + name + ".weight"; names
// outside the layers are whole. "{e}" stands for an expert's index. Empty: the family has no such
// tensor of its own.
struct TensorNames {
  std::string_view model_type;
  std::string_view embed = "model.embed_tokens", positions = "", embed_norm = "";
  std::string_view project_in = "", project_out = "";
  std::string_view layer = "model.layers.", final_norm = "model.norm", head = "lm_head";
  // One fused tensor where `qkv` or `gate_up` is set, separate ones otherwise.
  std::string_view q = "self_attn.q_proj", k = "self_attn.k_proj", v = "self_attn.v_proj", qkv = "";
  std::string_view o = "self_attn.o_proj";
  std::string_view gate = "mlp.gate_proj", up = "mlp.up_proj", down = "mlp.down_proj", gate_up = "";
  std::string_view norms[4] = {"input_layernorm", "post_attention_layernorm",
                               "pre_feedforward_layernorm", "post_feedforward_layernorm"};
  std::string_view router = "mlp.gate";
  std::string_view expert_gate = "mlp.experts.{e}.gate_proj", expert_up = "mlp.experts.{e}.up_proj",
                   expert_down = "mlp.experts.{e}.down_proj";
  std::string_view shared = "mlp.shared_expert.";  // + gate_proj, up_proj, down_proj
  bool transposed = false;                         // GPT-2's Conv1D: [in, out]
};

// Llama's names for a family that the table does not hold.
const TensorNames& tensor_names(std::string_view model_type);

}  // namespace llmplan
