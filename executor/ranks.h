// All ranks of a plan, driven by threads of this process: memory, programs, one step at a time, and the model's
// tensors whole again, by their Hugging Face names.
#pragma once

#include <atomic>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "executor/backend.h"
#include "executor/execution.h"
#include "executor/rank_setup.h"
#include "executor/safetensors.h"
#include "planner/build.h"
#include "planner/plan.h"

namespace llmplan {

class Transport;

struct StepResult {
  double loss = 0;             // mean over the tokens that count
  double grad_norm = 0;        // before clipping
  std::int64_t counted = 0;    // tokens with a target
  bool skipped = false;        // fp16: gradients overflowed at the loss scale, nothing was updated
  Seconds time{};              // wall clock, all ranks
};

// Ranks as threads of this process, or as processes forked from it (on CPUs; while it has no other threads).
enum class Placement : std::uint8_t { threads, processes };

enum class State : std::uint8_t { weights, gradients, moment1, moment2 };

class Ranks {
 public:
  struct Body;  // ranks_body.h

  // Builds the plan's programs and takes the memory. Weights are NaN until init() or write(); moments
  // are 0. `stop` reaching 2 ends a step in its middle (Error E0602).
  explicit Ranks(const Plan&, const std::atomic<int>* stop = nullptr, Placement = Placement::threads);
  // This process holds the rank of its number alone; every process makes the same calls in the same order.
  // `local` counts from 0 the processes of this machine, `share` is how many of them use its cores.
  Ranks(const Plan&, const std::atomic<int>* stop, Transport&, int local, int share);
  ~Ranks();
  Ranks(const Ranks&) = delete;
  Ranks& operator=(const Ranks&) = delete;

  int size() const;
  RankSetup setup() const;
  bool first() const;                           // rank 0 is here: what is read arrives in this process
  Transport* transport() const;                 // null when all ranks are here
  const Lowered& programs() const;              // of training
  Bytes predicted_arena(int rank) const;        // what the layouts say
  Bytes allocated_arena(int rank) const;        // what was taken from the system
  std::string attention() const;                // of rank 0: whose kernels, and why; empty where there is no choice
  Bytes memory() const;                         // the most that this process held, and what the ranks' own hold now

  void init(std::uint64_t seed);                // random weights
  // The timeline costs nothing on CPUs; on GPUs an untimed step is a single graph launch.
  StepResult step(const StepScalars&, const SampleSource&, bool timed = true);
  // Mean loss of `batches` micro-batches per data-parallel rank. Nothing but activations changes.
  double evaluate(std::int64_t batches, const SampleSource&);
  const Timeline& timeline(int rank) const;     // of the last timed step; of ranks that are elsewhere, see below
  // Brings the last timed step's timelines to rank 0: of all ranks, or of the first of each stage.
  void collect_timelines(bool all);

  // Every tensor of the model once, in the order of the stages.
  const std::vector<FloatTensor>& tensors() const;
  // Elements [first, first + size) of a whole tensor, so that large ones can pass through in pieces. What is
  // read is complete where first() is.
  void read(State, const std::string& name, std::int64_t first, std::span<float> out) const;
  void write(State, const std::string& name, std::int64_t first, std::span<const float> values);
  std::vector<float> read(State, const std::string& name) const;
  // What fp16 keeps from step to step; without it, a scale of 1.
  LossScaling loss_scaling() const;
  void set_loss_scaling(const LossScaling&);
  // Weights that several ranks hold must be the same bits. Empty, or which copy differs. Under ZeRO data-parallel ranks
  // are up to date in their own slices only, so one copy is what all of them together hold.
  std::string first_difference() const;

 private:
  std::unique_ptr<Body> body_;
};

}  // namespace llmplan
