#include "tools/llmplan/format.h"

#include <cmath>
#include <string_view>

#include <fmt/format.h>

namespace llmplan::cli {
namespace {

// Three significant digits of `value`, divided by the largest unit that leaves it at 1 or above.
std::string scaled(double value, double base, std::initializer_list<std::string_view> units) {
  auto unit = units.begin();
  while (std::abs(value) >= base && unit + 1 != units.end()) {
    value /= base;
    ++unit;
  }
  const double size = std::abs(value);
  const int decimals = size >= 99.95 || value == std::floor(value) ? 0 : size >= 9.995 ? 1 : 2;
  return fmt::format("{:.{}f} {}", value, decimals, *unit);
}

}  // namespace

std::string grouped(std::int64_t n) {
  std::string digits = std::to_string(n);
  for (int i = static_cast<int>(digits.size()) - 3; i > (n < 0 ? 1 : 0); i -= 3)
    digits.insert(static_cast<std::size_t>(i), ",");
  return digits;
}

std::string short_count(double n) {
  if (n < 1e6) return grouped(std::llround(n));
  if (n < 1e9) return fmt::format("{:.2f} M", n / 1e6);
  if (n < 1e12) return fmt::format("{:.3f} B", n / 1e9);
  return fmt::format("{:.3f} T", n / 1e12);
}

std::string short_rate(double r) {
  if (r >= 1e7) return fmt::format("{:.1f}M", r / 1e6);
  if (r >= 1e4) return fmt::format("{:.1f}k", r / 1e3);
  return r < 100 ? fmt::format("{:.1f}", r) : grouped(std::llround(r));
}

std::string bytes_text(Bytes b) {
  return scaled(static_cast<double>(b.value), 1024, {"B", "KiB", "MiB", "GiB", "TiB"});
}

std::string seconds_text(Seconds s) {
  if (s.value >= 1 || s.value == 0) return scaled(s.value, 1e300, {"s"});
  return scaled(s.value * 1e9, 1000, {"ns", "us", "ms"});
}

std::string duration_text(Seconds s) {
  if (s.value < 60) return seconds_text(s);
  const auto whole = static_cast<std::int64_t>(std::llround(s.value));
  if (whole < 3600) return fmt::format("{} m {:02} s", whole / 60, whole % 60);
  if (whole < 86400) return fmt::format("{} h {:02} m", whole / 3600, whole / 60 % 60);
  return fmt::format("{:.1f} days", s.value / 86400);
}

std::string clock_text(Seconds s) {
  const auto whole = static_cast<std::int64_t>(std::llround(s.value));
  return whole < 3600 ? fmt::format("{:02}:{:02}", whole / 60, whole % 60)
                      : fmt::format("{}:{:02}:{:02}", whole / 3600, whole / 60 % 60, whole % 60);
}

std::string flops_text(double f) {
  return scaled(f, 1000, {"FLOP", "kFLOP", "MFLOP", "GFLOP", "TFLOP", "PFLOP", "EFLOP"});
}

std::string percent_text(double fraction) { return fmt::format("{:+.1f} %", 100 * fraction); }

}  // namespace llmplan::cli
