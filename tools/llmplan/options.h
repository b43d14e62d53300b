// The groups of options that several commands share, and what becomes of them: a model, a cluster, a
// workload and, where asked for, a strategy. What is left out is derived here and nowhere else.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <variant>

#include <CLI/CLI.hpp>

#include "costmodel/cluster.h"
#include "costmodel/estimate.h"
#include "costmodel/model.h"
#include "costmodel/strategy.h"
#include "planner/search.h"

namespace llmplan::cli {

// Options as typed; values are read strictly in the functions below, with the flag in the message.
struct Typed {
  std::string model, cluster = "local";
  std::map<std::string, std::string> workload, strategy, limits;  // by flag; absent: not given
};
void add_model_and_cluster(CLI::App&, Typed&);
void add_workload(CLI::App&, Typed&);
void add_strategy(CLI::App&, Typed&);
void add_limits(CLI::App&, Typed&);

struct Inputs {
  std::string model_text;             // as typed
  ModelConfig model;
  Cluster cluster;
  Workload workload;                  // seq and global_batch filled in
  std::optional<Strategy> strategy;   // empty when no strategy flag was given
  std::optional<Runtime> runtime;     // the software that is modelled, if it is not llmplan itself
};
Inputs read_inputs(const Typed&);
Workload read_workload_words(const Typed&, const Cluster&);  // precision, optimizer and runtime alone: no model needed
std::variant<Estimate, Infeasible> price(const Inputs&, const Strategy&);
Limits read_limits(const Typed&);

// A step of about a million tokens (8192 on a CPU), in whole micro-batches of every rank.
std::int64_t default_global_batch(const Cluster&, std::int64_t seq, std::int64_t multiple);

}  // namespace llmplan::cli
