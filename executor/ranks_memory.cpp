// Buffers of one rank, as fp32 whatever they are stored in.
#include <algorithm>

#include "executor/cpu/convert.h"
#include "executor/ranks_body.h"
#include "executor/rope_table.h"

namespace llmplan {

void Ranks::Body::get(int rank, BufferId id, std::int64_t first, std::span<float> out) const {
  if (here(rank)) load(rank, id, first, out);
  if (transport) fetch(*transport, rank, std::as_writable_bytes(out));
}

void Ranks::Body::load(int rank, BufferId id, std::int64_t first, std::span<float> out) const {
  const Rank& from = *ranks[static_cast<std::size_t>(rank)];
  const DType type = buffer(rank, id).dtype;
  if (type == DType::fp32) return from.read(address(rank, id, first), std::as_writable_bytes(out));
  std::vector<std::byte> stored(out.size() * static_cast<std::size_t>(size_of(type)));
  from.read(address(rank, id, first), stored);
  cpu::widen(type, stored.data(), out.data(), static_cast<std::int64_t>(out.size()));
}

void Ranks::Body::put(int rank, BufferId id, std::int64_t first, std::span<const float> in) {
  if (!here(rank)) return;
  Rank& to = *ranks[static_cast<std::size_t>(rank)];
  const DType type = buffer(rank, id).dtype;
  if (type == DType::fp32) return to.write(address(rank, id, first), std::as_bytes(in));
  std::vector<std::byte> stored(in.size() * static_cast<std::size_t>(size_of(type)));
  cpu::narrow(type, in.data(), stored.data(), static_cast<std::int64_t>(in.size()));
  to.write(address(rank, id, first), stored);
}

void Ranks::Body::zero(int rank, BufferId id, std::int64_t first, std::int64_t end) {
  if (first >= end) return;
  const std::vector<float> zeros(static_cast<std::size_t>(std::min(kBlock, end - first)));
  for (; first < end; first += kBlock)
    put(rank, id, first, std::span(zeros).first(static_cast<std::size_t>(std::min(kBlock, end - first))));
}

void Ranks::Body::put_loss_scaling(int rank, const LossScaling& scaling) {
  if (const BufferId id = program(rank).loss_scaling; id >= 0 && here(rank))
    ranks[static_cast<std::size_t>(rank)]->write(address(rank, id, 0), std::as_bytes(std::span(&scaling, 1)));
}

void Ranks::Body::fill_constants(int rank) {
  const Program& p = program(rank);
  for (BufferId id : {p.gradients, p.moment1, p.moment2, p.master}) zero(rank, id, 0, elements(rank, id));
  // Weights stay NaN, as the arena was filled, until somebody writes them; but AdamW reads their padding.
  std::int64_t end = 0;
  for (const Param& param : p.params) zero(rank, p.weights, end, param.begin), end = param.begin + param.elements();
  zero(rank, p.weights, end, elements(rank, p.weights));
  put_loss_scaling(rank, {.scale = plan.workload.optimizer.loss_scale});
  std::vector<float> table(static_cast<std::size_t>(elements(rank, p.rope_table)));
  if (table.empty()) return;
  fill_rope_table(plan.model, static_cast<std::int64_t>(table.size()) / plan.model.head_dim, table);
  put(rank, p.rope_table, 0, table);
}

}  // namespace llmplan
