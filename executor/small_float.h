// Floating point numbers of 8 and 16 bits beside bfloat16: fp16 (IEEE binary16), and the two 8-bit formats of
// Micikevicius et al. 2022 ("FP8 formats for deep learning", 2209.05433): e5m2, which has infinities, and
// e4m3, which has none and one NaN per sign. The loops over these functions have no branches, so they vectorise.
#pragma once

#include <bit>
#include <cstdint>

namespace llmplan {

struct FloatFormat {
  int exponent, mantissa;  // bits
  bool infinities;
  constexpr int bias() const { return (1 << (exponent - 1)) - 1; }
  constexpr std::uint32_t sign() const { return 1u << (exponent + mantissa); }
  // The code of infinity, or of NaN where there is none: everything above is NaN.
  constexpr std::uint32_t special() const {
    const std::uint32_t all = (1u << (exponent + mantissa)) - 1;
    return infinities ? all >> mantissa << mantissa : all;
  }
  constexpr std::uint32_t nan() const { return special() | (infinities ? 1u << (mantissa - 1) : 0); }
};
inline constexpr FloatFormat kFp16{5, 10, true}, kE5m2{5, 2, true}, kE4m3{4, 3, false};

enum class Overflow : std::uint8_t { to_special, saturate };  // what becomes of numbers that are too large

// 2^e as a float, for e in [-126, 127].
constexpr float power_of_two(int e) { return std::bit_cast<float>(static_cast<std::uint32_t>(e + 127) << 23); }

template <FloatFormat F>
constexpr float from_small(std::uint32_t code) {
  const std::uint32_t magnitude = code & (F.sign() - 1);
  // The bits as a float have the wrong exponent bias; one exact product corrects it, of subnormal numbers too.
  const float value = std::bit_cast<float>(magnitude << (23 - F.mantissa)) * power_of_two(127 - F.bias());
  std::uint32_t bits = std::bit_cast<std::uint32_t>(value);
  if constexpr (F.infinities)
    bits = magnitude >= F.special() ? 0x7f800000u | (magnitude & (F.special() ^ (F.sign() - 1))) << (23 - F.mantissa) : bits;
  else
    bits = magnitude >= F.special() ? 0x7fc00000u : bits;
  return std::bit_cast<float>(bits | (code & F.sign()) << (31 - F.exponent - F.mantissa));
}

template <FloatFormat F>
inline constexpr float kLargest = from_small<F>(F.special() - 1);

// To nearest, ties to even. A NaN stays one.
template <FloatFormat F, Overflow O = Overflow::to_special>
constexpr std::uint32_t to_small(float x) {
  constexpr int shift = 23 - F.mantissa, rebias = 127 - F.bias();
  const std::uint32_t all = std::bit_cast<std::uint32_t>(x), sign = (all & 0x80000000u) >> (31 - F.exponent - F.mantissa);
  std::uint32_t bits = all & 0x7fffffffu;
  const bool is_nan = bits > 0x7f800000u;
  if constexpr (O == Overflow::saturate) {
    constexpr std::uint32_t largest = std::bit_cast<std::uint32_t>(kLargest<F>);
    bits = bits > largest ? largest : bits;
  }
  const std::uint32_t normal =
      ((bits + ((1u << (shift - 1)) - 1) + (bits >> shift & 1)) >> shift) - (static_cast<std::uint32_t>(rebias) << F.mantissa);
  // Below the smallest normal number the spacing is constant: adding a float whose own spacing that is rounds.
  constexpr float round = power_of_two(23 + 1 - F.bias() - F.mantissa);
  const std::uint32_t subnormal =
      std::bit_cast<std::uint32_t>(std::bit_cast<float>(bits) + round) - std::bit_cast<std::uint32_t>(round);
  constexpr std::uint32_t smallest_normal = static_cast<std::uint32_t>(rebias + 1) << 23;
  std::uint32_t code = bits < smallest_normal ? subnormal : normal;
  code = bits >= smallest_normal && code > F.special() ? F.special() : code;
  code = is_nan ? F.nan() : code;
  return code | sign;
}

constexpr float from_fp16(std::uint16_t code) { return from_small<kFp16>(code); }
constexpr std::uint16_t to_fp16(float x) { return static_cast<std::uint16_t>(to_small<kFp16>(x)); }

}  // namespace llmplan
