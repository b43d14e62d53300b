// Built without cuDNN's headers.
#include "executor/cuda/cudnn_attention.h"

namespace llmplan::cuda {

std::string cudnn_version() { return "no cuDNN (built without it)"; }

std::unique_ptr<AttentionLibrary> make_cudnn_attention(int, void*, std::size_t, std::string& why_not) {
  why_not = "built without cuDNN";
  return nullptr;
}

}  // namespace llmplan::cuda
