// Another implementation of attention than llmplan's own kernels: cuDNN's (cudnn_attention.h), or a made-up one in
// tests. attention_choice.h decides which of the two carries out an op.
#pragma once

#include <cstddef>
#include <span>
#include <string>

#include "costmodel/op.h"

struct CUstream_st;

namespace llmplan::cuda {

class AttentionLibrary {
 public:
  virtual ~AttentionLibrary() = default;
  virtual std::string name() const = 0;      // for people: "cuDNN 9.19.0"
  virtual std::string identity() const = 0;  // of library and device, for file names; empty: verdicts are not kept
  // Gets ready for an Attention or AttentionGrad, which may then use the workspace that the op comes with. Empty, or
  // why it cannot. `same_bits`: only by an algorithm that gives the same bits every time.
  virtual std::string prepare(const Op&, bool same_bits) = 0;
  // Enqueues a prepared op, operands in the order of op.h.
  virtual void run(const Op&, std::span<const std::byte* const> reads, std::span<std::byte* const> writes, CUstream_st*) = 0;
};

}  // namespace llmplan::cuda
