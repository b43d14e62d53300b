// Attention through cuDNN, where it is there: built without its headers, there is none (no_cudnn.cpp).
#pragma once

#include <cstddef>
#include <memory>
#include <string>

#include "executor/cuda/attention_library.h"

namespace llmplan::cuda {

// "cuDNN 9.19.0", or "no cuDNN (why)".
std::string cudnn_version();

// Of a GPU (CUDA's number). `workspace`: device memory of `bytes` that only the compute stream uses; forward passes
// take theirs from it. Null with the reason where cuDNN cannot be had.
std::unique_ptr<AttentionLibrary> make_cudnn_attention(int device, void* workspace, std::size_t bytes, std::string& why_not);

}  // namespace llmplan::cuda
