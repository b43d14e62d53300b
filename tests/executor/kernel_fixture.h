// What the kernel tests share: random operands, a call of cpu::run, and relative errors.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <random>
#include <vector>

#include "executor/cpu/kernels.h"

namespace llmplan::test {

using i64 = std::int64_t;
using Floats = std::vector<float>;
using Doubles = std::vector<double>;

inline Floats random_floats(i64 n, unsigned seed, double scale = 1.0) {
  std::mt19937 generator(seed);
  std::normal_distribution<double> normal(0, scale);
  Floats x(static_cast<std::size_t>(n));
  for (float& v : x) v = static_cast<float>(normal(generator));
  return x;
}
inline Doubles widen(const Floats& x) { return Doubles(x.begin(), x.end()); }

template <class T> const std::byte* in(const std::vector<T>& x) { return reinterpret_cast<const std::byte*>(x.data()); }
template <class T> std::byte* out(std::vector<T>& x) { return reinterpret_cast<std::byte*>(x.data()); }

struct Caller {
  explicit Caller(int threads = 2) : pool(threads) { context.pool = &pool; }
  void operator()(const Op& op, std::vector<const std::byte*> reads, std::vector<std::byte*> writes) const {
    cpu::run(op, reads, writes, context);
  }
  cpu::ThreadPool pool;
  cpu::KernelContext context;
};

// ‖got − want‖ / ‖want‖, and the largest error of an element over the largest element.
inline double relative_norm(const Floats& got, const Doubles& want) {
  double error = 0, size = 0;
  for (std::size_t i = 0; i < want.size(); ++i) {
    const double e = static_cast<double>(got[i]) - want[i];
    error += e * e;
    size += want[i] * want[i];
  }
  if (!(size > 0)) return std::sqrt(error);
  return std::sqrt(error / size);
}
inline double largest_error(const Floats& got, const Doubles& want) {
  double error = 0, size = 1e-30;
  for (std::size_t i = 0; i < want.size(); ++i) {
    const double e = std::abs(static_cast<double>(got[i]) - want[i]);
    error = e > error || std::isnan(e) ? e : error;
    size = std::max(size, std::abs(want[i]));
  }
  return error / size;
}
inline bool same_bits(const Floats& a, const Floats& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

}  // namespace llmplan::test
