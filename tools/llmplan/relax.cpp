#include "tools/llmplan/relax.h"

#include <algorithm>
#include <optional>

#include <fmt/format.h>

#include "costmodel/profiles/profiles.h"

namespace llmplan::cli {
namespace {

std::optional<Estimate> fitting(const ModelConfig& m, const Cluster& c, const Workload& w,
                                const std::vector<Strategy>& strategies) {
  std::optional<Estimate> best;
  for (const Strategy& s : strategies) {
    const auto result = estimate(m, c, w, s);
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

std::vector<Relaxation> relaxations(const ModelConfig& m, const Cluster& c, const Workload& w,
                                    const Limits& limits, const std::vector<Estimate>& closest) {
  std::vector<Strategy> strategies;
  for (const Estimate& e : closest) strategies.push_back(e.strategy);
  std::vector<Relaxation> found;
  const auto add = [&](const std::string& change, const std::optional<Estimate>& e) {
    if (e) found.push_back({change, *e});
    return e.has_value();
  };
  const auto changed = [&](auto change) {
    std::vector<Strategy> list = strategies;
    for (Strategy& s : list) change(s);
    return list;
  };

  if (!limits.recompute.empty())
    add("--recompute full", fitting(m, c, w, changed([](Strategy& s) {
      s.recompute = Recompute::full;
      s.recompute_layers = 0;
    })));
  if (!limits.micro_batch.empty())
    add("--micro-batch 1", fitting(m, c, w, changed([](Strategy& s) { s.micro_batch = 1; })));
  for (std::int64_t seq : shorter_than(w.seq)) {
    Workload shorter = w;
    shorter.seq = seq;
    if (add(fmt::format("--seq {}", seq), fitting(m, c, shorter, strategies))) break;
  }
  if (w.optimizer.kind == OptimizerKind::adamw) {
    Workload lean = w;
    lean.optimizer.kind = OptimizerKind::adamw_8bit;
    add("--optimizer adamw-8bit", fitting(m, c, lean, strategies));
  }
  if (w.precision == DType::fp32 && !c.device.cpu) {
    Workload half = w;
    half.precision = DType::bf16;
    add("--precision bf16", fitting(m, c, half, strategies));
  }
  if (!c.device.cpu) {
    add("--offload optimizer", fitting(m, c, w, changed([](Strategy& s) { s.offload.optimizer = true; })));
    for (std::int64_t factor = 2; factor <= 64; factor *= 2) {
      Cluster larger = c;
      larger.nodes *= factor;
      Limits wide = limits;
      wide.dp.clear();  // otherwise the product could not grow
      wide.simulate_top = 0;
      const SearchResult result = search(m, larger, w, wide);
      if (result.ranking.empty()) continue;
      add(fmt::format("{} devices instead of {}", larger.devices(), c.devices()), result.ranking.front());
      break;
    }
  }
  return found;
}

std::string largest_model_that_fits(const Cluster& c, const Workload& w, const std::vector<Estimate>& closest) {
  std::string best;
  std::int64_t most = 0;
  for (const std::string& name : model_names()) {
    const ModelConfig m = read_model(name);
    if (!why_not_runnable(m).empty() || parameters(m) <= most) continue;
    std::vector<Strategy> strategies;
    for (const Estimate& e : closest) {
      strategies.push_back(e.strategy);
      strategies.back().layers_per_stage.clear();
    }
    Workload own = w;
    if (m.max_position_embeddings > 0) own.seq = std::min(w.seq, m.max_position_embeddings);
    if (!fitting(m, c, own, strategies)) continue;
    best = name;
    most = parameters(m);
  }
  return best;
}

}  // namespace llmplan::cli
