// Interprets a program on one GPU. Streams are CUDA streams, waits are events; nothing of the step waits on the
// host. Unless per-instruction times are asked for, a program is captured into a CUDA graph at its first
// execution and replayed afterwards: what changes from step to step (input ids, learning rate) is read from
// pinned host memory at fixed addresses.
//
// Ranks that share a GPU meet on the host for every transfer. Then nothing is captured, and each stream is issued by
// a thread of its own, so that whatever verify() found free of deadlock is free of it here.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "executor/cuda/attention_choice.h"
#include "executor/cuda/communicator.h"
#include "executor/cuda/device.h"
#include "executor/execution.h"
#include "planner/program.h"

namespace llmplan::cuda {

class CudaBackend {
 public:
  // `communicator` may be null for a single rank. `arena` is on the device, `host` pinned. Both it and the choices, the
  // library's among them, outlive the backend.
  CudaBackend(Device&, const Coordinates&, GpuCommunicator* communicator, const Optimizer&, const AttentionChoices&,
              const Program& program, std::byte* arena, std::byte* host);
  ~CudaBackend();
  CudaBackend(const CudaBackend&) = delete;
  CudaBackend& operator=(const CudaBackend&) = delete;

  void begin(const Execution&, bool timed);  // before execute(); `timed`: events around every instruction, no graph
  void cancel() noexcept;                    // from any thread: synchronize() throws soon
  Bytes reserve() const;                     // device memory outside the arena: segments, scalars, scratch

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

}  // namespace llmplan::cuda
