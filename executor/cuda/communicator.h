// Collectives between GPUs: enqueued on a stream, never waiting on the host.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <memory>
#include <string>

#include "costmodel/op.h"
#include "executor/backend.h"

namespace llmplan::cuda {

class GpuCommunicator {
 public:
  virtual ~GpuCommunicator() = default;
  // Operands as in op.h; `in` is null for the in-place forms.
  virtual void collective(const Collective&, const std::byte* in, std::byte* out, cudaStream_t stream) = 0;
  virtual void send(const Send&, const std::byte* x, cudaStream_t stream) = 0;
  virtual void recv(const Recv&, std::byte* x, cudaStream_t stream) = 0;
  // Throws Error E0601 that names the culprit if a transfer failed or a peer is gone. Cheap: called while waiting.
  virtual void check() = 0;
  virtual void abort() noexcept = 0;
};

// Bytes that rank 0 makes and every other rank needs (an ncclUniqueId); how they travel is the launcher's business.
std::string nccl_unique_id();
// Error E0513 when this build has no NCCL.
std::unique_ptr<GpuCommunicator> nccl_communicator(const std::string& unique_id, const Coordinates& where);
bool have_nccl();
std::string nccl_version();

}  // namespace llmplan::cuda
