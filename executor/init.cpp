#include "executor/init.h"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <string_view>

#include "executor/random.h"
#include "executor/shard.h"

namespace llmplan {
namespace {

// Element i of a stream of normals: Box-Muller gives two at a time, for elements 2k and 2k + 1.
double normal(std::uint64_t key, std::int64_t i) {
  auto pair = static_cast<std::uint64_t>(i / 2);
  double radius = std::sqrt(-2 * std::log(uniform(mix64(key, 2 * pair))));
  double angle = 2 * std::numbers::pi * uniform(mix64(key, 2 * pair + 1));
  return radius * (i % 2 ? std::sin(angle) : std::cos(angle));
}

bool writes_residual(std::string_view name) {
  return name.find("o_proj") != name.npos || name.find("down_proj") != name.npos;
}

}  // namespace

void init_weights(const Param& p, int tp_rank, std::int64_t layers, std::uint64_t seed, std::span<float> part) {
  std::fill(part.begin(), part.end(), 0.f);
  if (p.full_shape.size() < 2) return std::fill(part.begin(), part.end(), 1.f);
  double deviation = 0.02;
  if (writes_residual(p.name)) deviation /= std::sqrt(2.0 * static_cast<double>(layers));
  std::uint64_t key = mix64(seed, hash_name(p.name));
  for_each_run(p, tp_rank, [&](std::int64_t local, std::int64_t global, std::int64_t count) {
    for (std::int64_t i = 0; i < count; ++i)
      part[static_cast<std::size_t>(local + i)] = static_cast<float>(deviation * normal(key, global + i));
  });
}

}  // namespace llmplan
