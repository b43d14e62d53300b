// Ranks of one process, each driven by threads of its own, that share one GPU (NCCL refuses two ranks on a device).
// A transfer is a meeting of the ranks' threads on the host, where they exchange addresses and events, and device
// copies or sums in rank order between those events. A stream only ever waits for an event that has been recorded,
// so the device cannot deadlock; the host's meetings are those that verify() checks.
#pragma once

#include <array>
#include <atomic>
#include <memory>
#include <mutex>
#include <string>

#include "executor/cuda/communicator.h"
#include "executor/gpu.h"

namespace llmplan::cuda {

class SharedGpu final : public GpuPeers, public std::enable_shared_from_this<SharedGpu> {
 public:
  SharedGpu(int tp, int dp, int pp);
  ~SharedGpu() override;

  // The seam of one rank; keeps the table alive.
  std::unique_ptr<GpuCommunicator> communicator(Device&, const Coordinates&);
  void abort(const std::string& reason) noexcept override;
  void check() const;  // Error E0601 with the reason once abort() was called

  struct Table;

 private:
  std::unique_ptr<Table> table_;
};

}  // namespace llmplan::cuda
