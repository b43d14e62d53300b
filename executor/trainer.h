// Trains a plan on this machine and reports what it measured beside what was predicted.
#pragma once

#include <atomic>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "executor/rank_setup.h"
#include "planner/plan.h"
#include "planner/simulate.h"

namespace llmplan {

class Transport;
struct Error;

struct RunOptions {
  std::string data;                  // a text file, or the prefix of a Megatron .bin/.idx pair
  std::string out;                   // directory for metrics.jsonl, checkpoints, report.json
  std::int64_t steps = 100;
  bool resume = false;
  std::int64_t checkpoint_every = 0; // steps; 0: only at the end and when stopped
  std::int64_t eval_every = 0;       // steps; 0: only at the end
  std::int64_t eval_batches = 8;     // micro-batches per data-parallel rank
  double held_out = 0.1;             // fraction of the data, from its end
  std::string init;                  // a safetensors file to start from instead of random weights
  bool processes = false;            // a process per rank instead of a thread (CPUs)
  // Not null: this process holds one rank, the transport's; all call train() with the same plan and options.
  // Files are read and written by rank 0 alone, but for the data. The others get an empty report.
  Transport* transport = nullptr;
  int local_rank = 0, local_size = 1;  // among the processes of this machine
  bool trace = false;                // write the last step's measured timeline
  std::function<void(const std::string&)> on_warning;  // a sentence for the user; rank 0 alone
  const std::atomic<int>* stop = nullptr;  // 1: stop after this step and save; 2: stop now
};

struct StepMetrics {  // one line of metrics.jsonl
  std::int64_t step = 0;
  double time = 0;                   // unix seconds
  double loss = 0, grad_norm = 0, lr = 0;
  std::int64_t tokens = 0;           // seen so far
  double step_s = 0, tokens_per_s = 0, tflops_per_device = 0, mfu = -1;
  Bytes memory{};
  double held_out_loss = -1;         // −1: not evaluated at this step
  double loss_scale = 1;             // fp16: of this step
  bool skipped = false;              // fp16: this step's gradients overflowed, and it changed nothing
};

struct OpKindTime { std::string kind; Seconds predicted{}, measured{}; };

struct RunReport {  // report.json, schema llmplan.report/1
  std::string plan_digest;
  Prediction predicted, measured;    // measured: medians
  Seconds p5_step{}, p95_step{};
  std::vector<OpKindTime> per_op;    // seconds of one step, summed over the instructions of the slowest stage
  double first_loss = 0, last_loss = 0, held_out_loss = -1;
  std::int64_t steps = 0, tokens = 0;
  // The process: all ranks' arenas, and the most that was ever resident. What is outside the arenas is
  // the process itself, its libraries and buffers of the reader and the checkpoint writer.
  int ranks = 1;
  Bytes arenas{}, process_peak{}, reserve{};
  std::string device;                // as the plan's cluster calls it
  RankSetup setup;
  std::map<std::string, std::string> versions;
  bool stopped = false;              // on request, after a checkpoint
};

// Adds to the error of a lost rank when that was, and what is saved.
void tell_where(Error&, std::int64_t step, const std::string& checkpoint);

// Throws Error: E03xx the plan cannot run here, E04xx data or checkpoint, E05xx disk, E0601, E0701.
RunReport train(const Plan&, const RunOptions&, const std::function<void(const StepMetrics&)>& on_step);

std::string to_json(const RunReport&);
RunReport report_from_json(const std::string& text, const std::string& file);

}  // namespace llmplan
