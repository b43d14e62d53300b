// AdamW on bf16 weights and moments without an fp32 copy (op.h: AdamW, `stochastic`).
#pragma once

#include <cstdint>

#include "executor/cpu/isa/table.h"
#include "executor/philox.h"

namespace llmplan::cpu {

inline constexpr std::int64_t kLeanBlock = 2048;  // elements that are fp32 at once; three arrays stay in the L1 cache

struct LeanNoise {
  NoisePlace place;
  std::int64_t first;  // the first element's place in the rank's part of its tensor
  std::int64_t step, seed;
};

// The fp32 update of table `k`, then each result up or down at random. Takes 3·kLeanBlock floats of tile scratch.
void lean_adamw(const KernelTable& k, const AdamWScalars&, const LeanNoise&, const float* gradient, std::uint16_t* weight,
                std::uint16_t* m, std::uint16_t* v, std::int64_t n);

}  // namespace llmplan::cpu
