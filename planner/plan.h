// What a plan file holds: the inputs by value, the strategy, the compute order and the predictions.
// `lower` is deterministic, so the instruction list need not be stored; the digest proves it.
#pragma once

#include <string>
#include <vector>
#include "costmodel/cluster.h"
#include "costmodel/model.h"
#include "costmodel/strategy.h"

namespace llmplan {

struct Prediction {  // of the simulated program
  Seconds step{};
  double tokens_per_s = 0, tflops_per_device = 0, mfu = -1;  // mfu -1: no peak is known
  Bytes arena{};        // largest device arena over stages: exact
  Bytes peak_memory{};  // arena + reserve
};

struct Plan {
  ModelConfig model;
  Cluster cluster;
  Workload workload;
  Strategy strategy;  // layers_per_stage is filled in
  Prediction prediction;
  std::string digest;

  std::int64_t micro_batches() const {  // per step and data-parallel rank
    return workload.global_batch / (strategy.dp * strategy.micro_batch);
  }
};

}  // namespace llmplan
