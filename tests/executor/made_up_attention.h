// A library of attention for the emulated card: plain loops, right unless a test wants a mistake.
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <string>

#include "executor/cuda/attention_library.h"

namespace llmplan::cuda::test {

enum class Fault {
  none,
  scale,       // scores are scaled by 1/head_dim
  mask,        // a query also sees the next key
  one_vector,  // one head of one token is wrong
  nan,         // one number is not a number
  unwritten,   // the last token is left out
  other_bits,  // the last bit of one number changes from run to run
  throws,      // running fails
  slow,        // right, but not faster
};

struct MadeUpAttention {
  Fault fault = Fault::none;
  std::string refusal;                                 // of prepare(); empty: it takes everything
  std::string identity;                                // of the file of verdicts
  mutable std::atomic<int> prepared = 0, runs = 0;     // calls
};

using Enqueue = std::function<void(CUstream_st*, std::function<void()>)>;
// `what` outlives it.
std::unique_ptr<AttentionLibrary> make_library(const MadeUpAttention& what, Enqueue);

// While it lives, emulated cards offer this library.
class Offer {
 public:
  explicit Offer(const MadeUpAttention&);
  ~Offer();
  Offer(const Offer&) = delete;
  Offer& operator=(const Offer&) = delete;
  static const MadeUpAttention* current();  // null: none
};

}  // namespace llmplan::cuda::test
