// The first interpreter: a program against a time model.
#pragma once

#include <memory>
#include <string>
#include <vector>
#include "planner/plan.h"
#include "planner/program.h"

namespace llmplan {

struct Span { Seconds start{}, finish{}; };
using Timeline = std::vector<Span>;  // by InstrId; predicted or measured

// How long ops take. Values, so that a test can supply any time model.
struct TimeModel {
  virtual ~TimeModel() = default;
  virtual Seconds time(const Op&) const = 0;  // alone
  // Speed (0..1] of an op that shares its machine with `active` (itself, this very object, included). Default: no contention.
  virtual double speed(const Op&, const std::vector<const Op*>& active) const { (void)active; return 1; }
  // What shares a machine: the streams of one stage, or those of all stages.
  virtual bool one_machine() const { return false; }
};
// Prices ops with op_time and transfer_time of the plan's cluster. On GPUs an op slows down beside others as
// `calibrate` measured it, if it did; on CPUs whose cores are fewer than the ranks, concurrent ops share them.
std::unique_ptr<TimeModel> time_model(const Plan&);

struct Simulation {
  std::vector<Timeline> stages;
  Seconds step{};
  std::string deadlock;  // empty, or the stuck instructions, one per line
};
// Sends and receives between two stages pair up in order and start when both ends are ready. Collectives
// between stages start when all of them have arrived. Collectives inside a stage, whose ranks all run this
// program, are local ops.
Simulation simulate(const std::vector<Program>&, const TimeModel&);

// Fills prediction, digest and layers_per_stage of a plan from its lowered and simulated program.
void predict(Plan&);

}  // namespace llmplan
