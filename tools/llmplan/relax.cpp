#include "tools/llmplan/relax.h"

#include <algorithm>
#include <optional>

#include <fmt/format.h>

#include "costmodel/profiles/profiles.h"

namespace llmplan::cli {
namespace {

std::vector<Strategy> strategies_of(const std::vector<Estimate>& estimates) {
  std::vector<Strategy> list;
  for (const Estimate& e : estimates) list.push_back(e.strategy);
  return list;
}

// The fastest of these strategies that fits.
std::optional<Estimate> fitting(const Inputs& in, const std::vector<Strategy>& strategies) {
  std::optional<Estimate> best;
  for (const Strategy& s : strategies) {
    const auto result = price(in, s);
    const auto* e = std::get_if<Estimate>(&result);
    if (e != nullptr && e->fits && (!best || e->time.step < best->time.step)) best = *e;
  }
  return best;
}

// 7/8, 6/8, … 1/8, 1/16, 1/32 … of a sequence length, in multiples of 16 tokens.
std::vector<std::int64_t> shorter_than(std::int64_t seq) {
  std::vector<std::int64_t> list;
  for (std::int64_t eighths = 7; eighths >= 1; --eighths) list.push_back(seq * eighths / 8 / 16 * 16);
  while (list.back() >= 32) list.push_back(list.back() / 2 / 16 * 16);
  std::erase(list, 0);
  return list;
}

}  // namespace

std::vector<Relaxation> relaxations(const Inputs& in, const Limits& limits, const std::vector<Estimate>& closest) {
  const std::vector<Strategy> strategies = strategies_of(closest);
  std::vector<Relaxation> found;
  const auto add = [&](const std::string& change, const std::optional<Estimate>& e) {
    if (e) found.push_back({change, *e});
    return e.has_value();
  };
  // One setting changed in every strategy that came close.
  const auto with_setting = [&](auto change) {
    std::vector<Strategy> list = strategies;
    for (Strategy& s : list) change(s);
    return fitting(in, list);
  };
  // One thing changed in what was asked for.
  const auto with_input = [&](auto change) {
    Inputs other = in;
    change(other);
    return fitting(other, strategies);
  };

  if (!limits.recompute.empty())
    add("--recompute full", with_setting([](Strategy& s) { s.recompute = Recompute::full, s.recompute_layers = 0; }));
  if (!limits.micro_batch.empty())
    add("--micro-batch 1", with_setting([](Strategy& s) { s.micro_batch = 1; }));
  for (std::int64_t seq : shorter_than(in.workload.seq))
    if (add(fmt::format("--seq {}", seq), with_input([&](Inputs& i) { i.workload.seq = seq; }))) break;
  if (in.workload.optimizer.kind == OptimizerKind::adamw)
    add("--optimizer adamw-8bit", with_input([](Inputs& i) { i.workload.optimizer.kind = OptimizerKind::adamw_8bit; }));
  if (in.cluster.device.cpu) return found;

  if (in.workload.precision == DType::fp32)
    add("--precision bf16", with_input([](Inputs& i) { i.workload.precision = DType::bf16; }));
  add("--offload optimizer", with_setting([](Strategy& s) { s.offload.optimizer = true; }));
  for (std::int64_t factor = 2; factor <= 64; factor *= 2) {
    Cluster larger = in.cluster;
    larger.nodes *= factor;
    Limits wide = limits;
    wide.dp.clear();  // otherwise the product of the degrees could not grow
    wide.simulate_top = 0;
    const SearchResult result = search(in.model, larger, in.workload, wide, in.runtime ? &*in.runtime : nullptr);
    if (result.ranking.empty()) continue;
    add(fmt::format("{} devices instead of {}", larger.devices(), in.cluster.devices()), result.ranking.front());
    break;
  }
  return found;
}

std::string largest_model_that_fits(const Inputs& in, const std::vector<Estimate>& closest) {
  std::vector<Strategy> strategies = strategies_of(closest);
  for (Strategy& s : strategies) s.layers_per_stage.clear();
  std::string best;
  std::int64_t most = 0;
  for (const std::string& name : model_names()) {
    Inputs other = in;
    other.model = read_model(name);
    if (!why_not_runnable(other.model).empty() || parameters(other.model) <= most) continue;
    if (other.model.max_position_embeddings > 0)
      other.workload.seq = std::min(in.workload.seq, other.model.max_position_embeddings);
    if (!fitting(other, strategies)) continue;
    best = name;
    most = parameters(other.model);
  }
  return best;
}

}  // namespace llmplan::cli
