// The auto-tuner: which strategy is best, and why not the others.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "costmodel/estimate.h"
#include "planner/plan.h"

namespace llmplan {

// What tune may choose from. An empty list means every legal value: the divisors of the devices for tp, pp,
// dp, cp and ep, the divisors of the batch for micro_batch. Of values that llmplan can price but not lower
// (ZeRO-2, cp, interleaving, …) those are searched that are listed here; all of them with `estimate_only`,
// and for models or runtimes that llmplan has no programs for.
struct Limits {
  std::vector<std::int64_t> tp, pp, dp, micro_batch;
  std::vector<int> zero;
  std::vector<Recompute> recompute;
  std::vector<Schedule> schedule;
  std::vector<int> sp;
  std::vector<std::int64_t> layers_per_stage;  // empty: even, and balanced by the stages' times
  std::int64_t grad_bucket = 0;                // of all strategies; 0: the default
  std::vector<std::int64_t> cp, ep, vpp;
  bool estimate_only = false;
  int simulate_top = 8;     // the best by closed form that are simulated op by op
  std::size_t keep = 100;   // entries of the ranking; of `closest`, at most 8
};

// space = Σ pruned + fitting. A strategy is pruned under the constraint that check() names, under "memory"
// when it does not fit, or under "dominated" when another with the same shape and less recomputation fits.
struct SearchResult {
  // That fit, best first: the simulated ones by their simulated time, which then stands in `time.step`,
  // before the others by closed form.
  std::vector<Estimate> ranking;
  std::vector<Prediction> predictions;  // of the first `simulated` of the ranking
  std::vector<Estimate> closest;        // that do not fit, by how little they miss
  std::vector<Estimate> pareto;         // closed form: none is both faster and smaller; fastest first
  std::int64_t space = 0, evaluated = 0, fitting = 0, simulated = 0;
  std::vector<std::pair<std::string, std::int64_t>> pruned;  // reason → how many, most first
  Seconds seconds{};
  // Every strategy of the space was priced or ruled out by one that was, and the best of them simulated.
  bool proven_optimal = false;
};
// `runtime`: the software that is modelled; null: llmplan itself.
SearchResult search(const ModelConfig&, const Cluster&, const Workload&, const Limits&,
                    const Runtime* runtime = nullptr);

// Layers per stage such that the slowest stage is as fast as can be, given what the embedding and the head
// cost, and every stage fits; ties go to later stages, which hold fewer micro-batches. Empty when no split
// of this strategy fits, or when it cannot be lowered.
std::vector<std::int64_t> balanced_split(const ModelConfig&, const Cluster&, const Workload&, const Strategy&);

}  // namespace llmplan
