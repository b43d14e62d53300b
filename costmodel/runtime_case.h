// One case for the closed form of any runtime: what is where, and what one layer costs. Made once, read by
// the accounts of memory (runtime_memory.cpp) and of time (runtime_time.cpp).
#pragma once

#include <cmath>
#include <span>
#include <vector>

#include "costmodel/group.h"
#include "costmodel/layer_cost.h"

namespace llmplan {

// What a pipeline stage holds; under interleaving, all of its chunks together.
struct Stage {
  std::int64_t dense = 0, moe = 0;  // layers
  bool first = false, last = false;
  std::int64_t layers() const { return dense + moe; }
};

struct StageWeights {  // parameters on one rank; experts are sharded over ep and replicated less
  double dense = 0, experts = 0;
  double all() const { return dense + experts; }
};

struct RuntimeCase {
  RuntimeCase(const ModelConfig&, const Cluster&, const Workload&, const Strategy&, const Runtime&,
              const std::vector<std::int64_t>& layers_per_chunk);  // chunk c of stage s is entry c·pp + s

  const ModelConfig& model;
  const Cluster& cluster;
  const Workload& workload;
  const Strategy& strategy;
  const Runtime& runtime;
  Pricer price;
  Dims dims;
  std::int64_t micro_batches;  // per step and data-parallel rank
  double shards;               // ranks that share ZeRO's states: dp·cp, or fewer in its hierarchical forms
  // Who reduces gradients and gathers weights: those that share a state, and those that hold copies of a share; the
  // same for experts; and those that share ZeRO++'s second copy of the weights.
  struct DataGroups { Group shard, replica, expert_shard, expert_replica, secondary; } groups;
  std::vector<Stage> stages;
  bool has_dense = false, has_moe = false;
  LayerPasses dense, moe;      // of one layer
  LayerWeights dense_layer, moe_layer;
  double table = 0;            // parameters of the embedding on one rank
  bool tp_overlaps = false;    // the links between tp ranks allow it

  StageWeights weights(const Stage&) const;
  double recomputed_share(const Stage&) const;  // of its layers
  double expert_shards() const { return static_cast<double>(groups.expert_shard.size); }
};

Memory stage_memory(const RuntimeCase&, std::int64_t stage);
// Time and communication. Each stage has its case; on a cluster of one device they are one and the same.
void price_step(std::span<const RuntimeCase* const> of_stage, Estimate&);
// Seconds of a micro-batch's forward and backward pass over the stage, gathers and transfers left out.
double stage_seconds(const RuntimeCase&, const Stage&);

// What one parameter costs in optimizer state, in bytes, beside an fp32 master copy.
double state_bytes(OptimizerKind);

// Whole bytes of a sum of doubles that may be beyond int64.
inline Bytes rounded(double n) { return {static_cast<std::int64_t>(std::llround(std::min(n, 9e18)))}; }

}  // namespace llmplan
