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
#include "executor/safetensors.h"
#include "planner/build.h"
#include "planner/plan.h"

namespace llmplan {

struct StepResult {
  double loss = 0;             // mean over the tokens that count
  double grad_norm = 0;        // before clipping
  std::int64_t counted = 0;    // tokens with a target
  bool skipped = false;        // fp16: gradients overflowed at the loss scale, nothing was updated
  Seconds time{};              // wall clock, all ranks
};

enum class State : std::uint8_t { weights, gradients, moment1, moment2 };

class Ranks {
 public:
  // Builds the plan's programs and takes the memory. Weights are NaN until init() or write(); moments
  // are 0. `stop` reaching 2 ends a step in its middle (Error E0602).
  explicit Ranks(const Plan&, const std::atomic<int>* stop = nullptr);
  ~Ranks();
  Ranks(const Ranks&) = delete;
  Ranks& operator=(const Ranks&) = delete;

  int size() const;
  const Lowered& programs() const;              // of training
  Bytes predicted_arena(int rank) const;        // what the layouts say
  Bytes allocated_arena(int rank) const;        // what was taken from the system

  void init(std::uint64_t seed);                // random weights
  // The timeline costs nothing on CPUs; on GPUs an untimed step is a single graph launch.
  StepResult step(const StepScalars&, const SampleSource&, bool timed = true);
  // Mean loss of `batches` micro-batches per data-parallel rank. Nothing but activations changes.
  double evaluate(std::int64_t batches, const SampleSource&);
  const Timeline& timeline(int rank) const;     // of the last timed step

  // Every tensor of the model once, in the order of the stages.
  const std::vector<FloatTensor>& tensors() const;
  // Elements [first, first + size) of a whole tensor, so that large ones can pass through in pieces.
  void read(State, const std::string& name, std::int64_t first, std::span<float> out) const;
  void write(State, const std::string& name, std::int64_t first, std::span<const float> values);
  std::vector<float> read(State, const std::string& name) const;
  // What fp16 keeps from step to step; without it, a scale of 1.
  LossScaling loss_scaling() const;
  void set_loss_scaling(const LossScaling&);
  // Weights that several ranks hold must be the same bits. Empty, or which copy differs.
  std::string first_difference() const;

 private:
  struct Body;
  std::unique_ptr<Body> body_;
};

}  // namespace llmplan
