#include "costmodel/runtime_estimate.h"

#include <algorithm>
#include <cmath>
#include <memory>
#include <numeric>

#include "costmodel/group.h"
#include "costmodel/runtime_case.h"

namespace llmplan {
namespace {

double d(std::int64_t n) { return static_cast<double>(n); }

std::vector<Stage> stages_of(const ModelConfig& model, std::int64_t pp, const std::vector<std::int64_t>& split) {
  std::vector<Stage> stages(static_cast<std::size_t>(pp));
  stages.front().first = stages.back().last = true;
  std::int64_t layer = 0;
  for (std::size_t i = 0; i < split.size(); ++i) {
    Stage& stage = stages[i % static_cast<std::size_t>(pp)];
    if (model.num_experts == 0) {
      stage.dense += split[i];
      continue;
    }
    for (const std::int64_t end = layer + split[i]; layer < end; ++layer)
      ++(is_moe_layer(model, layer) ? stage.moe : stage.dense);
  }
  return stages;
}

}  // namespace

RuntimeCase::RuntimeCase(const ModelConfig& m, const Cluster& c, const Workload& w, const Strategy& s, const Runtime& r,
                         const std::vector<std::int64_t>& split)
    : model(m), cluster(c), workload(w), strategy(s), runtime(r), price(c, s), dims(dims_of(m, w, s, r)),
      micro_batches(w.global_batch / (s.dp * s.micro_batch)), shards(d(s.zero_shard())), stages(stages_of(m, s.pp, split)) {
  const std::int64_t ranks = s.dp * s.cp, shard = s.zero_shard();
  groups.shard = group_of(shard, s.tp, c);
  groups.replica = group_of(ranks / shard, s.tp * shard, c);
  if (m.num_experts > 0) {  // their copies are fewer; etp·ep ranks lie between two of them
    const std::int64_t copies = s.expert_dp(), stride = s.expert_tp() * s.ep;
    const std::int64_t mine = std::gcd(copies, std::max<std::int64_t>(1, shard * s.tp / stride));
    groups.expert_shard = group_of(mine, stride, c);
    groups.expert_replica = group_of(copies / mine, stride * mine, c);
  }
  if (s.zero_groups.secondary > 1) groups.secondary = group_of(s.zero_groups.secondary, s.tp, c);
  for (const Stage& stage : stages) has_dense |= stage.dense > 0, has_moe |= stage.moe > 0;
  price.rings_only = r.rings_only;
  if (has_dense) dense = price_layer(m, dims, s, r, price, false);
  if (has_moe) moe = price_layer(m, dims, s, r, price, true);
  dense_layer = layer_weights(m, s, false);
  if (has_moe) moe_layer = layer_weights(m, s, true);
  table = table_weights(m, s, r);
  if (s.tp > 1) {
    const Group tp = group_of(Axis::tp, c, s);
    tp_overlaps = tp.depth > 0 && tp.levels[tp.depth - 1].link->peer_stores;
  }
}

StageWeights RuntimeCase::weights(const Stage& s) const {
  StageWeights w;
  w.dense = d(s.dense) * dense_layer.dense + d(s.moe) * moe_layer.dense;
  w.experts = d(s.moe) * moe_layer.experts;
  if (s.first) w.dense += table + d(model.position_rows) * dims.hidden;
  if (s.last && !(model.tie_word_embeddings && s.first)) w.dense += table;
  if (s.last) w.dense += dims.hidden;
  return w;
}

double RuntimeCase::recomputed_share(const Stage& s) const {
  if (strategy.recompute == Recompute::none) return 0;
  if (strategy.recompute_layers == 0 || s.layers() == 0) return 1;
  return std::min(1.0, d(strategy.recompute_layers) / d(s.layers()));
}

double state_bytes(OptimizerKind kind) {
  switch (kind) {
    case OptimizerKind::adamw: return 8;       // two fp32 moments
    case OptimizerKind::lion: return 4;        // one
    case OptimizerKind::sgd: return 0;         // without momentum
    case OptimizerKind::adamw_8bit: return 2;  // two int8 moments; a scale per 256 of them is 1.6 % more
    case OptimizerKind::adafactor: return 0;   // row and column sums only
    case OptimizerKind::adamw_lean: return 4;  // two bf16 moments, and no master
  }
  return 0;
}

// On a cluster of several device types: layers go one by one to the stage that would end soonest with it and still
// has room, which is the least longest stage for layers that are alike; so slower devices hold fewer.
static std::vector<std::int64_t> deal_layers(std::span<RuntimeCase* const> of_stage, std::int64_t layers) {
  const std::size_t n = of_stage.size();
  const bool moe = of_stage[0]->has_moe;
  std::vector<std::int64_t> split(n, 1);
  std::vector<double> next(n);
  const auto look_ahead = [&](std::size_t i) {  // seconds with one layer more; none, where that does not fit
    RuntimeCase& c = *of_stage[i];
    Stage& stage = c.stages[i];
    (moe ? stage.moe : stage.dense) = split[i] + 1;
    (moe ? stage.dense : stage.moe) = 0;
    const Memory memory = stage_memory(c, static_cast<std::int64_t>(i));
    next[i] = memory.capacity.value > 0 && memory.peak > memory.capacity ? INFINITY : stage_seconds(c, stage);
  };
  for (std::size_t i = 0; i < n; ++i) look_ahead(i);
  for (std::int64_t left = layers - static_cast<std::int64_t>(n); left > 0; --left) {
    std::size_t to = static_cast<std::size_t>(std::min_element(next.begin(), next.end()) - next.begin());
    if (std::isinf(next[to])) to = static_cast<std::size_t>(std::min_element(split.begin(), split.end()) - split.begin());
    ++split[to];
    look_ahead(to);
  }
  return split;
}

// A cluster of several device types: a case per type, of which each stage takes its own.
static Estimate mixed_estimate(const ModelConfig& m, const Cluster& c, const Workload& w, const Strategy& s, const Runtime& r) {
  Estimate e;
  e.strategy = s;
  const std::int64_t ranks = s.tp * s.cp * s.dp;
  std::vector<Cluster> alike;
  for (std::size_t p = 0; p < c.parts.size(); ++p) alike.push_back(like_part(c, p));
  std::vector<std::int64_t> split = layer_split(s, m.num_hidden_layers);
  for (const bool deal : {true, false}) {
    if (deal && (!s.layers_per_stage.empty() || s.vpp > 1 || s.pp == 1)) continue;
    std::vector<std::unique_ptr<RuntimeCase>> cases;
    for (const Cluster& one : alike) cases.push_back(std::make_unique<RuntimeCase>(m, one, w, s, r, split));
    std::vector<RuntimeCase*> of_stage;
    for (std::int64_t i = 0; i < s.pp; ++i) of_stage.push_back(cases[part_of(c, i * ranks)].get());
    if (deal) {
      split = deal_layers(of_stage, m.num_hidden_layers);
      continue;
    }
    e.strategy.layers_per_stage = split;
    for (std::size_t i = 0; i < of_stage.size(); ++i)
      e.memory_per_stage.push_back(stage_memory(*of_stage[i], static_cast<std::int64_t>(i)));
    // The stage that is nearest to its own device's capacity.
    e.memory = *std::max_element(e.memory_per_stage.begin(), e.memory_per_stage.end(), [](const Memory& a, const Memory& b) {
      return (a.peak - a.capacity) < (b.peak - b.capacity);
    });
    price_step(std::vector<const RuntimeCase*>(of_stage.begin(), of_stage.end()), e);
  }
  return e;
}

Estimate runtime_estimate(const ModelConfig& m, const Cluster& c, const Workload& w, const Strategy& s, const Runtime& r) {
  if (!c.parts.empty()) return mixed_estimate(m, c, w, s, r);
  Estimate e;
  e.strategy = s;
  e.strategy.layers_per_stage = layer_split(s, m.num_hidden_layers);
  const RuntimeCase the_case(m, c, w, s, r, e.strategy.layers_per_stage);

  e.memory_per_stage.reserve(the_case.stages.size());
  for (std::size_t i = 0; i < the_case.stages.size(); ++i)
    e.memory_per_stage.push_back(stage_memory(the_case, static_cast<std::int64_t>(i)));
  const Memory* peak = &e.memory_per_stage.front();
  for (const Memory& stage : e.memory_per_stage)
    if (stage.peak > peak->peak) peak = &stage;
  e.memory = *peak;

  price_step(std::vector<const RuntimeCase*>(the_case.stages.size(), &the_case), e);
  return e;
}

}  // namespace llmplan
