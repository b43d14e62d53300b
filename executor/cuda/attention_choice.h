// Which ops of attention a library (cuDNN) carries out, and which llmplan's own kernels. A library is believed nothing:
// what it computes for this very shape on this very card is compared before it is used (attention_check.h).
#pragma once

#include <string>
#include <string_view>
#include <unordered_set>
#include <vector>

#include "executor/cuda/attention_check.h"
#include "executor/cuda/attention_library.h"
#include "executor/cuda/device.h"
#include "planner/program.h"

namespace llmplan::cuda {

// LLMPLAN_ATTENTION: what may be chosen.
enum class AttentionPolicy {
  same_bits,  // "auto", also if unset: what is right, faster, and gives the same bits every time
  fast,       // "fast": also what adds up in any order; then two runs differ in their last bits
  library,    // "cudnn": the library wherever it is right, faster or not; for measurements
  own,        // "own": llmplan's own kernels
};
AttentionPolicy attention_policy(const char* word);  // null or empty: auto. Error E0511 for a word that is none of these

struct AttentionChoice {
  Op op;                   // Attention or AttentionGrad
  bool library = false;
  std::string why;         // one clause: "1.52 times as fast", or why not
};
struct AttentionChoices {
  AttentionLibrary* library = nullptr;            // null: there is none
  std::string library_name;                       // empty then
  std::vector<AttentionChoice> all;               // each shape once
  std::unordered_set<Op, OpHash> by_library;
};

// A shape that libraries are asked for; else why not.
std::string why_not_asked(const Op&);

// Decides for every shape of attention among `ops`. `library` may be null: `why_none` says why. Verdicts are read from
// and kept in `file`, so that later runs choose alike, and start at once; empty: nowhere. Takes device memory until it
// returns: for operands, twice results, and a reference in fp32.
AttentionChoices choose_attention(Device&, AttentionLibrary* library, const std::string& why_none, const std::vector<Op>& ops,
                                  AttentionPolicy, const std::string& file, int runs = 5);

// $XDG_CACHE_HOME/llmplan/attention-<identity>.json; empty for a library without one
std::string attention_file(const AttentionLibrary*);

// For reports: "forward cuDNN 9.19.0 (1.52 times as fast), backward llmplan's (…)".
std::string text(const AttentionChoices&);

}  // namespace llmplan::cuda
