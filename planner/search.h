// The auto-tuner: which strategy is best, and why not the others.
#pragma once

#include <cstdint>
#include <string>
#include <vector>
#include "costmodel/estimate.h"

namespace llmplan {

struct Limits {  // what tune may choose from; empty lists: everything legal
  std::vector<std::int64_t> tp, pp, dp, micro_batch;
  std::vector<int> zero;
  std::vector<Recompute> recompute;
  std::vector<Schedule> schedule;
  std::vector<int> sp;
  std::vector<std::int64_t> layers_per_stage;
  int simulate_top = 8;     // the best by closed form that are simulated op by op
};
struct SearchResult {
  std::vector<Estimate> ranking;  // that fit, best first
  std::vector<Estimate> closest;  // when nothing fits: by how little they miss
  std::vector<Estimate> pareto;   // time against memory
  std::int64_t space = 0, evaluated = 0, simulated = 0;
  std::vector<std::pair<std::string, std::int64_t>> pruned;  // reason → how many
  Seconds seconds{};
  bool proven_optimal = false;
};
SearchResult search(const ModelConfig&, const Cluster&, const Workload&, const Limits&);

}  // namespace llmplan
