#include "executor/cpu/lean_adamw.h"

#include <algorithm>

#include "executor/bf16.h"
#include "executor/cpu/scratch.h"

namespace llmplan::cpu {

void lean_adamw(const KernelTable& k, const AdamWScalars& s, const LeanNoise& bits, const float* gradient, std::uint16_t* weight,
                std::uint16_t* m, std::uint16_t* v, std::int64_t n) {
  float* const w32 = scratch(ScratchUse::tile, 3 * kLeanBlock);
  float *const m32 = w32 + kLeanBlock, *const v32 = m32 + kLeanBlock;
  for (std::int64_t begin = 0; begin < n; begin += kLeanBlock) {
    const std::int64_t count = std::min(kLeanBlock, n - begin);
    for (std::int64_t i = 0; i < count; ++i) {
      w32[i] = from_bf16(weight[begin + i]);
      m32[i] = from_bf16(m[begin + i]);
      v32[i] = from_bf16(v[begin + i]);
    }
    k.adamw(s, gradient + begin, w32, m32, v32, count);
    for (std::int64_t i = 0; i < count; ++i) {
      const Random4 r = noise(bits.place, bits.first + begin + i, bits.step, bits.seed);
      weight[begin + i] = stochastic_bf16(w32[i], r.at[0]);
      m[begin + i] = stochastic_bf16(m32[i], r.at[1]);
      v[begin + i] = stochastic_bf16(v32[i], r.at[2]);
    }
  }
}

}  // namespace llmplan::cpu
