// What each transformers class assumes where its config.json is silent.
#include "costmodel/profiles/model_fields.h"

namespace llmplan {

const std::vector<ModelFamily>& model_families() {
  static const std::vector<ModelFamily> families = {
      {"llama", {"LlamaForCausalLM"}, {.rms_norm_eps = 1e-6}, {}, {}},
      {"gpt2", {"GPT2LMHeadModel"},
       {.max_position_embeddings = 1024, .tie_word_embeddings = true, .mlp = Mlp::gelu, .norm = Norm::layer, .positions = Positions::learned, .qkv_bias = true, .attention_out_bias = true, .mlp_bias = true, .norm_bias = true},
       {}, [](const Node&, ModelConfig& m) { if (m.intermediate_size == 0) m.intermediate_size = 4 * m.hidden_size; }},
  };
  return families;
}

}  // namespace llmplan
