// Whether the model would choose well: of measured runs that differ in their strategy only, how much slower
// is the one that it calls fastest than the one that was?
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "costmodel/validate.h"

namespace llmplan {

// What a tuner is given: source, runtime, model, device, number of devices, sequence length, global batch
// and precision. Rows that share it are alternatives of one choice. Empty if one of them is blank.
std::string problem_of(const Case&);
std::string strategy_of(const Case&);  // what the tuner chooses

struct Ranking {
  std::string group, problem;          // group: the source, runtime or device
  std::int64_t rows = 0;               // strategies
  std::string chosen, best;            // ids: predicted fastest, measured fastest
  double regret = 0;                   // measured(chosen)/measured(best) − 1
  double tau = 0;                      // Kendall's rank correlation of predicted and measured, −1..1
};
// One per problem with at least two strategies, headline rows only. Of rows with the same strategy the fastest
// stands for it; among strategies with equal predictions the slowest counts as chosen.
std::vector<Ranking> rankings(const std::vector<Comparison>&, const std::string& by);

struct RankingSummary {
  std::string group;
  std::int64_t problems = 0, rows = 0;
  double mean_regret = 0, max_regret = 0, best_chosen = 0;  // best_chosen: share of problems without regret
  double tau = 0;                                           // mean
};
// The groups in order of first appearance, then "all" if there are several.
std::vector<RankingSummary> summarize(const std::vector<Ranking>&);

}  // namespace llmplan
