// Random bits as a function of a counter and a key: Philox4x32-10 (Salmon et al. 2011, "Parallel random
// numbers: as easy as 1, 2, 3"), and what stochastic rounding makes of them. The same code on every backend.
#pragma once

#include <cstdint>
#include <cstring>

#ifdef __CUDACC__
#define LLMPLAN_EVERYWHERE __host__ __device__ __forceinline__
#else
#define LLMPLAN_EVERYWHERE inline
#endif

namespace llmplan {

struct Random4 { std::uint32_t at[4]; };

LLMPLAN_EVERYWHERE Random4 philox(Random4 counter, std::uint32_t key0, std::uint32_t key1) {
  for (int round = 0; round < 10; ++round) {
    const std::uint64_t a = std::uint64_t{0xD2511F53u} * counter.at[0], b = std::uint64_t{0xCD9E8D57u} * counter.at[2];
    counter = {{static_cast<std::uint32_t>(b >> 32) ^ counter.at[1] ^ key0, static_cast<std::uint32_t>(b),
                static_cast<std::uint32_t>(a >> 32) ^ counter.at[3] ^ key1, static_cast<std::uint32_t>(a)}};
    key0 += 0x9E3779B9u;
    key1 += 0xBB67AE85u;
  }
  return counter;
}

// Which random bits an element of a tensor gets: those of its place in the whole tensor, so that it is the same
// whichever rank holds it. A rank's part is runs of `width` elements that are `pitch` apart in the whole.
struct NoisePlace {
  std::uint32_t tensor = 0;  // hash of its name
  std::int64_t width = 1, pitch = 0, offset = 0;
  LLMPLAN_EVERYWHERE std::int64_t whole(std::int64_t i) const { return i / width * pitch + offset + i % width; }
};

LLMPLAN_EVERYWHERE Random4 noise(const NoisePlace& place, std::int64_t element, std::int64_t step, std::int64_t seed) {
  const auto at = static_cast<std::uint64_t>(place.whole(element)), key = static_cast<std::uint64_t>(seed);
  return philox({{static_cast<std::uint32_t>(at), static_cast<std::uint32_t>(at >> 32), static_cast<std::uint32_t>(step), place.tensor}},
                static_cast<std::uint32_t>(key), static_cast<std::uint32_t>(key >> 32));
}

// bfloat16 below or above x, above with the probability that x's distance from the lower one says; `random` is uniform
// in its lower 16 bits.
LLMPLAN_EVERYWHERE std::uint16_t stochastic_bf16(float x, std::uint32_t random) {
  std::uint32_t bits;
  memcpy(&bits, &x, 4);
  const std::uint32_t size = bits & 0x7fffffffu;
  if (size > 0x7f800000u) return static_cast<std::uint16_t>(bits >> 16 | 0x40);  // NaN
  if (size == 0x7f800000u) return static_cast<std::uint16_t>(bits >> 16);
  return static_cast<std::uint16_t>((bits + (random & 0xffffu)) >> 16);
}

}  // namespace llmplan
