// Between a rank's part of a tensor and the whole one.
#pragma once

#include <algorithm>
#include <cstdint>
#include <iterator>
#include <vector>

#include "executor/philox.h"
#include "executor/random.h"
#include "planner/program.h"

namespace llmplan {

// Calls visit(local, global, count) for each run of elements of a tp rank's part of `p` that is
// contiguous in the full tensor: `local` counts within the part, `global` in the full tensor. Rows that
// pad the vocabulary have no global place and are not visited.
template <class Visit>
void for_each_run(const Param& p, int tp_rank, Visit visit) {
  if (p.tp_dim < 0) return visit(std::int64_t{0}, std::int64_t{0}, p.elements());
  std::int64_t outer = 1, inner = 1;  // product of the dimensions before and after tp_dim
  for (int d = 0; d < static_cast<int>(p.shape.size()); ++d) {
    if (d < p.tp_dim) outer *= p.shape[d];
    if (d > p.tp_dim) inner *= p.shape[d];
  }
  std::int64_t part = p.shape[p.tp_dim], full = p.full_shape[p.tp_dim], first = tp_rank * part;
  std::int64_t kept = part < full - first ? part : full - first;
  if (kept <= 0) return;
  for (std::int64_t o = 0; o < outer; ++o)
    visit(o * part * inner, (o * full + first) * inner, kept * inner);
}

// The same for elements [first, end) of the full tensor only.
template <class Visit>
void for_each_run(const Param& p, int tp_rank, std::int64_t first, std::int64_t end, Visit visit) {
  for_each_run(p, tp_rank, [&](std::int64_t local, std::int64_t global, std::int64_t count) {
    std::int64_t from = std::max(first, global), to = std::min(end, global + count);
    if (from < to) visit(local + from - global, from, to - from);
  });
}

// The element of the flat buffers at which the operands of an optimizer's op begin.
inline std::int64_t flat_begin(const Instr& in) {
  const bool flat = std::holds_alternative<GradStats>(in.op) || std::holds_alternative<AdamW>(in.op);
  return flat ? in.reads.front().offset.value / size_of(DType::fp32) : 0;
}

// Where element `at` of the flat order is kept by ZeRO's `shards` ranks: whose it is, where among all that he owns, and how
// many that follow it are his, too.
struct OwnedElement { std::int64_t dp_rank, index, run; };
inline OwnedElement owner_of(std::int64_t at, const std::vector<Bucket>& buckets, std::int64_t shards) {
  const auto after = std::upper_bound(buckets.begin(), buckets.end(), at, [](std::int64_t x, const Bucket& b) { return x < b.begin; });
  const Bucket& b = *std::prev(after);
  const std::int64_t slice = b.elements / shards, there = at - b.begin;
  return {there / slice, b.begin / shards + there % slice, slice - there % slice};
}

// Where the elements of a tp rank's part stand in the whole tensor. Vocabulary padding stands behind its end.
inline NoisePlace noise_place(const Param& p, int tp_rank) {
  NoisePlace place;
  place.tensor = static_cast<std::uint32_t>(hash_name(p.name));
  place.width = p.elements() > 0 ? p.elements() : 1;
  if (p.tp_dim < 0) return place;
  std::int64_t inner = 1;
  for (int d = p.tp_dim + 1; d < static_cast<int>(p.shape.size()); ++d) inner *= p.shape[d];
  place.width = p.shape[p.tp_dim] * inner;
  place.pitch = p.full_shape[p.tp_dim] * inner;
  place.offset = tp_rank * place.width;
  return place;
}

inline std::int64_t full_elements(const Param& p) {
  std::int64_t n = 1;
  for (std::int64_t d : p.full_shape) n *= d;
  return n;
}

}  // namespace llmplan
