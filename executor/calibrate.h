// Measures this machine: how long every kind of op takes here, alone on all cores and with every core busy.
#pragma once

#include <atomic>
#include <functional>
#include <string>

#include "costmodel/cluster.h"

namespace llmplan {

struct CalibrationOptions {
  double seconds = 50;                           // about; less on a fast machine
  const std::atomic<int>* stop = nullptr;        // > 0: stop (Error E0602)
  // Called before each part with its name and the fraction of `seconds` that is spent.
  std::function<void(const std::string& part, double fraction)> progress;
};

// `local` is local_cluster(). Its device, with everything in it that was measured: `measured` with a
// few hundred ops, peak (the best GEMM of one core, so that MFU has a denominator) and memory_bandwidth.
//
// Ops are timed inside short training runs of small models, not in loops of their own: operands are then as
// cold and neighbours as busy as in a real step.
Device calibrate(const Cluster& local, const CalibrationOptions& = {});

}  // namespace llmplan
