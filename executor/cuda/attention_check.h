// Runs attention twice on random data, by llmplan's kernels and by a library, and compares both with a reference in
// fp32: the kernels of attention_reference.h, which share no code with either.
#pragma once

#include <array>
#include <string>
#include <vector>

#include "executor/cuda/attention_library.h"
#include "executor/cuda/device.h"

namespace llmplan::cuda {

// How far a part of a result (out; dq, dk or dv) is from the reference.
struct Distance {
  double whole = 0;   // ‖difference‖ / ‖reference‖
  double worst = 0;   // ‖difference‖ of the worst vector of head_dim numbers / root mean square of the reference's
  bool finite = true; // no NaN and no infinity
};
struct PartCheck { const char* part; Distance own, library; };

struct AttentionCheck {
  std::vector<PartCheck> parts;
  bool same_bits = true;        // the library gave the same result three times
  Seconds own{}, library{};     // the fastest run
};

// `op` is prepared. The library's result may be wrong in any way; what CUDA reports is thrown. `runs` are timed, after two
// that are not, unless it is 1.
AttentionCheck check_attention(Device&, AttentionLibrary&, const Op&, int runs);

// Empty, or what is wrong. Both round p, ds and the result to 16 bits; cuDNN also rounds dk and dv of every query head
// before it adds up those of a group, so that it may err √2 times as much. A factor of 2 leaves room for other tiles and
// orders; a single vector varies more, a wrong mask, scale or tile is off by a hundred times as much.
inline constexpr double kWholeFactor = 2, kWorstFactor = 4;
std::string wrong(const AttentionCheck&);

}  // namespace llmplan::cuda
