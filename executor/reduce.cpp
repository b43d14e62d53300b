#include "executor/reduce.h"

#include <fmt/format.h>

#include <algorithm>
#include <type_traits>

#include "costmodel/error.h"
#include "executor/bf16.h"
#include "executor/small_float.h"

namespace llmplan {
namespace {

float widen(float x) { return x; }
double widen(double x) { return x; }
std::int32_t widen(std::int32_t x) { return x; }
struct Bf16 { std::uint16_t bits; };
float widen(Bf16 x) { return from_bf16(x.bits); }
struct Fp16 { std::uint16_t bits; };
float widen(Fp16 x) { return from_fp16(x.bits); }
template <class T, class Wide>
T narrow(Wide x) {
  if constexpr (std::is_same_v<T, Bf16>) return {to_bf16(x)};
  else if constexpr (std::is_same_v<T, Fp16>) return {to_fp16(x)};
  else return x;
}

template <class T>
void sum_of(std::span<const std::byte* const> in, std::byte* out, std::int64_t begin, std::int64_t end) {
  using Wide = decltype(widen(T{}));
  constexpr std::int64_t kBlock = 2048;  // stays in the first-level cache
  Wide total[kBlock];
  auto* result = reinterpret_cast<T*>(out);
  for (std::int64_t at = begin; at < end; at += kBlock) {
    std::int64_t n = std::min(kBlock, end - at);
    for (std::size_t r = 0; r < in.size(); ++r) {
      const T* x = reinterpret_cast<const T*>(in[r]) + at;
      if (r == 0)
        for (std::int64_t i = 0; i < n; ++i) total[i] = widen(x[i]);
      else
        for (std::int64_t i = 0; i < n; ++i) total[i] += widen(x[i]);
    }
    for (std::int64_t i = 0; i < n; ++i) result[at - begin + i] = narrow<T>(total[i]);
  }
}

}  // namespace

void sum(DType type, std::span<const std::byte* const> in, std::byte* out, std::int64_t begin, std::int64_t end) {
  switch (type) {
    case DType::fp32: return sum_of<float>(in, out, begin, end);
    case DType::fp64: return sum_of<double>(in, out, begin, end);
    case DType::int32: return sum_of<std::int32_t>(in, out, begin, end);
    case DType::bf16: return sum_of<Bf16>(in, out, begin, end);
    case DType::fp16: return sum_of<Fp16>(in, out, begin, end);
    case DType::fp8_e4m3: case DType::fp8_e5m2: break;
  }
  throw Error("E0510", Exit::environment, fmt::format("sums of {} are not possible here", name_of(type)),
              "plan with --precision fp32");
}

}  // namespace llmplan
