// Small plans for the planner's tests.
#pragma once

#include <vector>

#include "costmodel/cluster.h"
#include "planner/plan.h"

namespace llmplan {

// A Llama decoder whose dimensions differ from one another, so that a mixed-up one shows.
inline ModelConfig tiny_model(std::int64_t layers = 4) {
  ModelConfig m;
  m.name = "tiny";
  m.hidden_size = 96;
  m.num_hidden_layers = layers;
  m.intermediate_size = 256;  // 8/3 · hidden: a gated MLP of as many weights as a plain one of 4 · hidden
  m.num_attention_heads = 8;
  m.num_key_value_heads = 4;
  m.head_dim = 12;
  m.vocab_size = 320;
  m.max_position_embeddings = 64;
  return m;
}

inline Cluster cpu_cluster(std::int64_t cores = 2) {
  Cluster c;
  c.name = "local";
  c.devices_per_node = cores;
  c.device.name = "cpu";
  c.device.cpu = true;
  c.device.cores = static_cast<int>(cores);
  c.device.memory = 16_GiB;
  c.device.vector_peak = {100e9};
  c.device.memory_bandwidth = {20e9};
  c.device.gemm_efficiency = c.device.attention_efficiency = c.device.memory_efficiency = {{{1, 1}}};
  c.intra = c.inter = {"shared memory", {5e9}, {2e-6}, {{{1, 1}}}};
  return c;
}

inline Plan tiny_plan(Strategy strategy = {}, std::int64_t micro_batches = 1, std::int64_t layers = 4) {
  Plan p;
  p.model = tiny_model(layers);
  p.cluster = cpu_cluster();
  p.workload.seq = 32;
  p.workload.precision = DType::fp32;
  p.workload.global_batch = micro_batches * strategy.dp * strategy.micro_batch;
  p.strategy = strategy;
  return p;
}

// One of everything that can be lowered, alone and combined, up to 8 ranks. Gradients go in one bucket, in one per layer and
// in some of two or more layers, in turn.
inline std::vector<Strategy> strategy_grid() {
  std::vector<Strategy> grid;
  for (std::int64_t tp : {1, 2, 4})
    for (std::int64_t pp : {1, 2, 4})
      for (std::int64_t dp : {1, 2})
        for (int zero : {0, 1})
          for (bool sp : {false, true})
            for (Recompute recompute : {Recompute::none, Recompute::full})
              for (Schedule schedule : {Schedule::gpipe, Schedule::one_f_one_b}) {
                if (tp * pp * dp > 8 || (sp && tp == 1) || (zero && dp == 1)) continue;
                Strategy s;
                s.tp = tp, s.pp = pp, s.dp = dp, s.zero = zero, s.sp = sp;
                s.recompute = recompute, s.schedule = schedule;
                s.micro_batch = 2;
                if (pp == 2) s.layers_per_stage = {3, 1};
                if (recompute == Recompute::full && pp == 1) s.recompute_layers = 2;
                constexpr std::int64_t kBuckets[] = {1, 130'000, 0};  // a layer has 101,376 elements
                if (dp > 1) s.grad_bucket = kBuckets[grid.size() % 3];
                grid.push_back(s);
              }
  return grid;
}

}  // namespace llmplan
