// A rank on this machine's cores. The compute stream runs in the rank's own thread, with its pool; each
// other stream that the program uses is a thread. Waiting threads sleep.
#pragma once

#include <functional>
#include <memory>
#include <span>

#include "costmodel/strategy.h"
#include "executor/arena.h"
#include "executor/backend.h"
#include "executor/communicator.h"

namespace llmplan::cpu {

// Gives the `seq` ids and targets of sample `i` of the step's global batch. Called from all ranks at once.
using SampleSource =
    std::function<void(std::int64_t i, std::span<std::int32_t> ids, std::span<std::int32_t> targets)>;

// What one execution of a program needs beside the program.
struct Execution {
  const Program* program = nullptr;
  const Layout* layout = nullptr;
  StepScalars step;
  const SampleSource* samples = nullptr;
  std::int64_t samples_per_micro_batch = 1, samples_per_rank = 1;  // of this step
  Communicator::Time start;  // zero of the timeline
};

class CpuBackend {
 public:
  CpuBackend(const Coordinates&, Communicator&, const Optimizer&, int threads, std::byte* device, std::byte* host);
  ~CpuBackend();
  CpuBackend(const CpuBackend&) = delete;
  CpuBackend& operator=(const CpuBackend&) = delete;

  void begin(const Execution&);  // before execute()
  void cancel() noexcept;        // from any thread: no further instruction starts; synchronize() throws

  // The Backend concept.
  void wait(Stream, InstrId);
  void launch(const Program&, InstrId);
  void synchronize();
  const Timeline& timeline() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

static_assert(Backend<CpuBackend&>);

}  // namespace llmplan::cpu
