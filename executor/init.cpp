#include "executor/init.h"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <string_view>

#include "executor/random.h"
#include "executor/shard.h"

namespace llmplan {
namespace {

// The stream of normals of a key. Box-Muller gives two at a time, for elements 2k and 2k + 1.
class Normals {
 public:
  explicit Normals(std::uint64_t key) : key_(key) {}
  double at(std::int64_t i) {
    if (auto pair = static_cast<std::uint64_t>(i / 2); pair != pair_) {
      pair_ = pair;
      double radius = std::sqrt(-2 * std::log(uniform(mix64(key_, 2 * pair))));
      double angle = 2 * std::numbers::pi * uniform(mix64(key_, 2 * pair + 1));
      even_ = radius * std::cos(angle);
      odd_ = radius * std::sin(angle);
    }
    return i % 2 ? odd_ : even_;
  }

 private:
  std::uint64_t key_, pair_ = ~std::uint64_t{0};
  double even_ = 0, odd_ = 0;
};

bool writes_residual(std::string_view name) {
  return name.find("o_proj") != name.npos || name.find("down_proj") != name.npos;
}

}  // namespace

void init_weights(const Param& p, int tp_rank, std::int64_t layers, std::uint64_t seed, std::int64_t first,
                  std::span<float> out) {
  if (p.full_shape.size() < 2) return std::fill(out.begin(), out.end(), 1.f);
  std::fill(out.begin(), out.end(), 0.f);
  double deviation = 0.02;
  if (writes_residual(p.name)) deviation /= std::sqrt(2.0 * static_cast<double>(layers));
  Normals normals(mix64(seed, hash_name(p.name)));
  const std::int64_t end = first + static_cast<std::int64_t>(out.size());
  for_each_run(p, tp_rank, [&](std::int64_t local, std::int64_t global, std::int64_t count) {
    for (std::int64_t i = std::max(local, first); i < std::min(local + count, end); ++i)
      out[static_cast<std::size_t>(i - first)] = static_cast<float>(deviation * normals.at(global + i - local));
  });
}

}  // namespace llmplan
