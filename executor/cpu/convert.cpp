#include "executor/cpu/convert.h"

#include <cstring>
#include <string>

#include "costmodel/error.h"
#include "executor/bf16.h"
#include "executor/small_float.h"

namespace llmplan::cpu {
namespace {

[[noreturn]] void refuse(DType type) {
  throw Error("E0510", Exit::environment, "the CPU kernels do not compute in " + std::string(name_of(type)),
              "plan again with --precision fp32, bf16, fp16 or fp8");
}

template <class Code, class Convert>
void from_codes(const std::byte* from, float* to, std::int64_t n, Convert convert) {
  const auto* codes = reinterpret_cast<const Code*>(from);
  for (std::int64_t i = 0; i < n; ++i) to[i] = convert(codes[i]);
}
template <class Code, class Convert>
void to_codes(const float* from, std::byte* to, std::int64_t n, Convert convert) {
  auto* codes = reinterpret_cast<Code*>(to);
  for (std::int64_t i = 0; i < n; ++i) codes[i] = static_cast<Code>(convert(from[i]));
}

}  // namespace

void widen(DType type, const std::byte* from, float* to, std::int64_t n) {
  switch (type) {
    case DType::fp32: std::memmove(to, from, static_cast<std::size_t>(n) * sizeof(float)); return;
    case DType::bf16: return from_codes<std::uint16_t>(from, to, n, from_bf16);
    case DType::fp16: return from_codes<std::uint16_t>(from, to, n, from_fp16);
    case DType::fp8_e4m3: return from_codes<std::uint8_t>(from, to, n, from_small<kE4m3>);
    case DType::fp8_e5m2: return from_codes<std::uint8_t>(from, to, n, from_small<kE5m2>);
    case DType::int32: case DType::fp64: break;
  }
  refuse(type);
}

void narrow(DType type, const float* from, std::byte* to, std::int64_t n) {
  switch (type) {
    case DType::fp32: std::memmove(to, from, static_cast<std::size_t>(n) * sizeof(float)); return;
    case DType::bf16: return to_codes<std::uint16_t>(from, to, n, to_bf16);
    case DType::fp16: return to_codes<std::uint16_t>(from, to, n, to_fp16);
    case DType::fp8_e4m3: return to_codes<std::uint8_t>(from, to, n, to_small<kE4m3, Overflow::saturate>);
    case DType::fp8_e5m2: return to_codes<std::uint8_t>(from, to, n, to_small<kE5m2, Overflow::saturate>);
    case DType::int32: case DType::fp64: break;
  }
  refuse(type);
}

}  // namespace llmplan::cpu
