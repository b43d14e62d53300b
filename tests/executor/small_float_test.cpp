// Number formats against the definition: the value of a code, and the code that lies nearest to a value.
#include "executor/small_float.h"

#include <doctest/doctest.h>

#include <cmath>
#include <random>

#include "executor/bf16.h"

namespace llmplan {
namespace {

// (−1)^s · 2^(e − bias) · 1.m, or 2^(1 − bias) · 0.m where e = 0.
template <FloatFormat F>
double value_of(std::uint32_t code) {
  const int e = static_cast<int>(code >> F.mantissa & ((1u << F.exponent) - 1));
  const double m = std::ldexp(static_cast<double>(code & ((1u << F.mantissa) - 1)), -F.mantissa);
  const double size = e == 0 ? std::ldexp(m, 1 - F.bias()) : std::ldexp(1 + m, e - F.bias());
  return code & F.sign() ? -size : size;
}

template <FloatFormat F>
void check_codes() {
  for (std::uint32_t code = 0; code < 2 * F.sign(); ++code) {
    const std::uint32_t magnitude = code & (F.sign() - 1);
    const float x = from_small<F>(code);
    CAPTURE(code);
    if (magnitude < F.special()) {
      CHECK(static_cast<double>(x) == value_of<F>(code));
      CHECK(std::signbit(x) == ((code & F.sign()) != 0));
      CHECK(to_small<F>(x) == code);
      CHECK(to_small<F, Overflow::saturate>(x) == code);
    } else if (F.infinities && magnitude == F.special()) {
      CHECK(std::isinf(x));
      CHECK(to_small<F>(x) == code);
      CHECK(to_small<F, Overflow::saturate>(x) == code - 1);
    } else {
      CHECK(std::isnan(x));
      CHECK((to_small<F>(x) & (F.sign() - 1)) > F.special() - !F.infinities);
      CHECK(std::isnan(from_small<F>(to_small<F, Overflow::saturate>(x))));
    }
  }
}

// Between two neighbours: the nearer one, in the middle the even one; so too a hair beside the middle.
template <FloatFormat F>
void check_rounding() {
  for (std::uint32_t code = 0; code + 1 < F.special(); ++code) {
    const double low = value_of<F>(code), high = value_of<F>(code + 1);
    const auto middle = static_cast<float>((low + high) / 2);
    CAPTURE(code);
    CHECK(to_small<F>(middle) == (code % 2 ? code + 1 : code));
    CHECK(to_small<F>(std::nextafter(middle, 0.0f)) == code);
    CHECK(to_small<F>(std::nextafter(middle, 1e30f)) == code + 1);
    CHECK(to_small<F>(-middle) == (F.sign() | (code % 2 ? code + 1 : code)));
  }
  // Half a step above the largest number is where rounding leaves the format.
  const std::uint32_t last = F.special() - 1;
  const double step = value_of<F>(last) - value_of<F>(last - 1);
  const auto limit = static_cast<float>(value_of<F>(last) + step / 2);
  CHECK(to_small<F>(std::nextafter(limit, 0.0f)) == last);
  CHECK(to_small<F>(limit) == (last % 2 ? F.special() : last));
  CHECK(to_small<F>(std::nextafter(limit, 1e30f)) == F.special());
  for (float x : {limit, 1e30f, INFINITY}) {
    CHECK(to_small<F, Overflow::saturate>(x) == last);
    CHECK(to_small<F, Overflow::saturate>(-x) == (F.sign() | last));
  }
  CHECK(to_small<F>(INFINITY) == F.special());
}

TEST_CASE("Every code of fp16, e5m2 and e4m3 has the value that its bits say, and is found again") {
  check_codes<kFp16>();
  check_codes<kE5m2>();
  check_codes<kE4m3>();
  CHECK(kLargest<kFp16> == 65504);
  CHECK(kLargest<kE5m2> == 57344);
  CHECK(kLargest<kE4m3> == 448);
  CHECK(from_small<kE4m3>(1) == std::ldexp(1.0f, -9));
}

TEST_CASE("Numbers round to the nearest code, ties to even, and beyond the largest to infinity or to it") {
  check_rounding<kFp16>();
  check_rounding<kE5m2>();
  check_rounding<kE4m3>();
}

#if defined(__FLT16_MANT_DIG__)
TEST_CASE("fp16 is the compiler's _Float16, bit for bit") {
  std::mt19937 generator(3);
  for (int i = 0; i < 300000; ++i) {
    const float x = std::bit_cast<float>(static_cast<std::uint32_t>(generator()));
    if (std::isnan(x)) continue;
    const float y = std::ldexp(x, i % 3 == 0 ? 0 : -(std::ilogb(x) - i % 40 + 22));  // most near fp16's range
    CHECK(to_fp16(y) == std::bit_cast<std::uint16_t>(static_cast<_Float16>(y)));
  }
}
#endif

}  // namespace
}  // namespace llmplan
