// bfloat16: the upper half of a float.
#pragma once

#include <bit>
#include <cstdint>

namespace llmplan {

constexpr float from_bf16(std::uint16_t bits) { return std::bit_cast<float>(std::uint32_t{bits} << 16); }

constexpr std::uint16_t to_bf16(float x) {  // to nearest, ties to even
  auto bits = std::bit_cast<std::uint32_t>(x);
  if (x != x) return static_cast<std::uint16_t>(bits >> 16 | 64);  // stays NaN
  return static_cast<std::uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

}  // namespace llmplan
