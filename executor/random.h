// Randomness as a function: the same key gives the same number on every rank and in every order.
#pragma once

#include <bit>
#include <cstdint>
#include <string_view>

namespace llmplan {

// The finalizer of SplitMix64 (Steele, Lea, Flood 2014): a bijection on 64 bits.
constexpr std::uint64_t mix64(std::uint64_t x) {
  x += 0x9e3779b97f4a7c15u;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}
constexpr std::uint64_t mix64(std::uint64_t a, std::uint64_t b) { return mix64(mix64(a) ^ b); }

constexpr std::uint64_t hash_name(std::string_view name) {
  std::uint64_t h = 0;
  for (char c : name) h = mix64(h, static_cast<unsigned char>(c));
  return h;
}

// Uniform in (0, 1): never 0, whose logarithm is not finite.
constexpr double uniform(std::uint64_t bits) {
  return (static_cast<double>(bits >> 11) + 0.5) * 0x1p-53;
}

// A permutation of [0, n) without a table: a four-round Feistel network on the next even number of bits,
// walked until it lands inside (Black and Rogaway, "Ciphers with arbitrary finite domains", 2002).
constexpr std::int64_t permute(std::int64_t i, std::int64_t n, std::uint64_t key) {
  const int half = (std::bit_width(static_cast<std::uint64_t>(n > 1 ? n - 1 : 1)) + 1) / 2;
  const std::uint64_t mask = (std::uint64_t{1} << half) - 1;
  auto x = static_cast<std::uint64_t>(i);
  do {
    std::uint64_t left = x >> half, right = x & mask;
    for (std::uint64_t round = 0; round < 4; ++round) {
      std::uint64_t next = left ^ (mix64(key + round, right) & mask);
      left = right;
      right = next;
    }
    x = (left << half) | right;
  } while (x >= static_cast<std::uint64_t>(n));
  return static_cast<std::int64_t>(x);
}

}  // namespace llmplan
