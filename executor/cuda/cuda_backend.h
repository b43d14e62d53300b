// A rank on one NVIDIA GPU. Streams are CUDA streams, waits are events; nothing of the step waits on the
// host. Unless per-instruction times are asked for, a program is captured into a CUDA graph at its first
// execution and replayed afterwards: what changes from step to step (input ids, learning rate) is read from
// pinned host memory at fixed addresses.
#pragma once

#include <cuda_runtime.h>

#include <memory>
#include <span>

#include "executor/cuda/communicator.h"
#include "executor/execution.h"
#include "planner/program.h"

namespace llmplan::cuda {

class CudaBackend {
 public:
  // `communicator` may be null for a single rank. The arena is on the device, `host` pinned.
  CudaBackend(int device, const Coordinates&, GpuCommunicator* communicator, const Optimizer&,
              const Program& program, std::byte* arena, std::byte* host);
  ~CudaBackend();
  CudaBackend(const CudaBackend&) = delete;
  CudaBackend& operator=(const CudaBackend&) = delete;

  // Chooses matrix-product algorithms for all programs that will run. Before the arena is taken, if memory is tight.
  static void tune(int device, const std::vector<const Program*>& programs);

  void begin(const Execution&, bool timed);  // before execute(); `timed`: events around every instruction, no graph

  // The Backend concept.
  void wait(Stream, InstrId);
  void launch(const Program&, InstrId);
  void synchronize();
  const Timeline& timeline() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

static_assert(Backend<CudaBackend&>);

// Device memory outside the arena that a backend takes, by purpose: workspace, scalars, scratch.
Bytes backend_reserve(const Program& program);

}  // namespace llmplan::cuda
