// A rank on this machine's cores. The compute stream runs in the rank's own thread, with its pool; each
// other stream that the program uses is a thread. Waiting threads sleep.
#pragma once

#include <memory>

#include "costmodel/strategy.h"
#include "executor/arena.h"
#include "executor/backend.h"
#include "executor/communicator.h"
#include "executor/execution.h"

namespace llmplan::cpu {

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
