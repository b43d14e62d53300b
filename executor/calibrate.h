// Measures this machine: how long every kind of op takes here, alone on all cores and with every core busy, or on its GPUs.
#pragma once

#include <atomic>
#include <functional>
#include <string>
#include <vector>

#include "costmodel/cluster.h"

namespace llmplan {

// A model of two layers that is trained for some steps.
struct CalibrationSample {
  std::int64_t hidden, heads, kv_heads, head_dim, ffn, vocab, seq, micro_batch;
};

struct CalibrationOptions {
  double seconds = 50;                           // about; less on a fast machine
  const std::atomic<int>* stop = nullptr;        // > 0: stop (Error E0602)
  // Called before each part with its name and the fraction of `seconds` that is spent.
  std::function<void(const std::string& part, double fraction)> progress;
  std::vector<CalibrationSample> samples;        // instead of the built-in ones
};

// `local` is local_cluster(). Its device, with everything in it that was measured: `measured` with a
// few hundred ops; on CPUs also peak (the best GEMM of one core, so that MFU has a denominator) and memory_bandwidth,
// on GPUs launch (the gap between two ops).
//
// Ops are timed inside short training runs of small models, not in loops of their own: operands are then as
// cold and neighbours as busy as in a real step.
Device calibrate(const Cluster& local, const CalibrationOptions& = {});

}  // namespace llmplan
