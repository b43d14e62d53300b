#include "executor/cpu/quantize.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "executor/cpu/convert.h"
#include "executor/small_float.h"

namespace llmplan::cpu {
namespace {

using i64 = std::int64_t;

// The largest e with largest·2^e ≤ limit, within what keeps 2^e and 2^-e normal floats.
int exponent_for(float largest, float limit) {
  if (largest == 0) return 0;
  int e = std::ilogb(limit) - std::ilogb(largest);
  if (std::ldexp(static_cast<double>(largest), e) > static_cast<double>(limit)) --e;
  return std::clamp(e, -120, 120);
}

}  // namespace

void quantize(DType to, i64 rows, i64 columns, const float* x, std::byte* straight, std::byte* transposed, float* factor,
              ThreadPool& pool) {
  // Not std::max: a NaN must stay.
  const auto larger = [](float most, float x) { return std::abs(x) <= most || std::isnan(most) ? most : std::abs(x); };
  float* const largest = factor + 1;  // of each row
  pool.parallel_for(rows, [&](i64 r) {
    float most = 0;
    for (i64 c = 0; c < columns; ++c) most = larger(most, x[r * columns + c]);
    largest[r] = most;
  });
  float most = 0;
  for (i64 r = 0; r < rows; ++r) most = larger(most, largest[r]);
  if (!std::isfinite(most)) most = std::numeric_limits<float>::quiet_NaN();
  const int e = std::isfinite(most) ? exponent_for(most, to == DType::fp8_e4m3 ? kLargest<kE4m3> : kLargest<kE5m2>) : 0;
  const float scale = std::ldexp(1.0f, e);
  factor[0] = std::isfinite(most) ? std::ldexp(1.0f, -e) : most;
  constexpr i64 kBand = 16;  // rows that a transposed line of bytes gets at a time
  pool.parallel_for((rows + kBand - 1) / kBand, [&](i64 band) {
    constexpr i64 kChunk = 256;
    float scaled[kChunk];
    std::byte codes[kChunk];
    for (i64 r = band * kBand; r < std::min(rows, (band + 1) * kBand); ++r)
      for (i64 begin = 0; begin < columns; begin += kChunk) {
        const i64 n = std::min(kChunk, columns - begin);
        for (i64 i = 0; i < n; ++i) scaled[i] = x[r * columns + begin + i] * scale;
        narrow(to, scaled, codes, n);
        if (straight) std::copy_n(codes, n, straight + r * columns + begin);
        if (transposed)
          for (i64 i = 0; i < n; ++i) transposed[(begin + i) * rows + r] = codes[i];
      }
  });
}

}  // namespace llmplan::cpu
