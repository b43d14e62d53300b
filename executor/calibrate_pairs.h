// What ops cost each other that run side by side on a GPU: a collective beside a product, a transfer beside a norm.
#pragma once

#include <array>
#include <vector>

#include "executor/calibrate.h"
#include "planner/program.h"
#include "planner/simulate.h"

namespace llmplan {

// A program that runs `first` alone some times, then `second`, then both on streams of their own. With a Send or Recv it
// is one of the two stages between which that happens.
Program pair_program(const Op& first, const Op& second, int stage);

// What an instruction would have taken without those of other streams that ran beside it.
double seconds_alone(const Program&, const Timeline&, InstrId, const std::vector<Contention>&);

// Collects timelines of pair programs.
class PairTimes {
 public:
  void add(const Program&, const Timeline&);
  std::vector<Contention> result() const;

 private:
  // Of ops of one class beside another: how long they ran beside it, and how much longer they took for it.
  struct Sum { double beside = 0, lost = 0; };
  std::array<std::array<Sum, 4>, 4> sums_{};
};

// The pairs that these GPUs can run, with the widths of one sample: on one card a product beside pointwise work; on
// several also both beside a collective of all and a transfer between two.
void measure_pairs(const Cluster& local, const CalibrationSample&, const std::atomic<int>* stop, PairTimes&);

}  // namespace llmplan
