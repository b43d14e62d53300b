// Physical quantities as types. Inside llmplan everything is bytes, FLOPs and seconds; prefixes such
// as GiB and ms live at the edges, in files and on the screen. `Bytes / FlopsPerSecond` does not compile.
#pragma once

#include <compare>
#include <cstdint>

namespace llmplan {

template <class Dimension, class Rep>
struct Quantity {
  Rep value{};

  constexpr auto operator<=>(const Quantity&) const = default;
  constexpr Quantity& operator+=(Quantity o) { value += o.value; return *this; }
  constexpr Quantity& operator-=(Quantity o) { value -= o.value; return *this; }
  friend constexpr Quantity operator+(Quantity a, Quantity b) { return {a.value + b.value}; }
  friend constexpr Quantity operator-(Quantity a, Quantity b) { return {a.value - b.value}; }
  friend constexpr Quantity operator*(Quantity a, Rep k) { return {a.value * k}; }
  friend constexpr Quantity operator*(Rep k, Quantity a) { return {k * a.value}; }
  friend constexpr Quantity operator/(Quantity a, Rep k) { return {a.value / k}; }
  friend constexpr double operator/(Quantity a, Quantity b) {
    return static_cast<double>(a.value) / static_cast<double>(b.value);
  }
};

using Bytes = Quantity<struct BytesTag, std::int64_t>;
using Flops = Quantity<struct FlopsTag, double>;  // a step of a 1T model is 2.4e19: past int64
using Seconds = Quantity<struct SecondsTag, double>;
using BytesPerSecond = Quantity<struct BandwidthTag, double>;
using FlopsPerSecond = Quantity<struct ThroughputTag, double>;

constexpr Seconds operator/(Bytes b, BytesPerSecond r) {
  return {static_cast<double>(b.value) / r.value};
}
constexpr Seconds operator/(Flops f, FlopsPerSecond r) { return {f.value / r.value}; }
constexpr FlopsPerSecond operator/(Flops f, Seconds s) { return {f.value / s.value}; }
constexpr BytesPerSecond operator/(Bytes b, Seconds s) {
  return {static_cast<double>(b.value) / s.value};
}

constexpr Bytes operator""_B(unsigned long long n) { return {static_cast<std::int64_t>(n)}; }
constexpr Bytes operator""_KiB(unsigned long long n) { return {static_cast<std::int64_t>(n) << 10}; }
constexpr Bytes operator""_MiB(unsigned long long n) { return {static_cast<std::int64_t>(n) << 20}; }
constexpr Bytes operator""_GiB(unsigned long long n) { return {static_cast<std::int64_t>(n) << 30}; }

}  // namespace llmplan
