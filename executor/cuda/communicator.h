// Collectives between ranks on GPUs: enqueued on a stream.
#pragma once

#include <cstddef>
#include <memory>
#include <string>

#include "costmodel/op.h"
#include "executor/backend.h"
#include "executor/cuda/device.h"

namespace llmplan::cuda {

class GpuCommunicator {
 public:
  virtual ~GpuCommunicator() = default;
  // Operands as in op.h; `in` is null for the in-place forms.
  virtual void collective(const Collective&, const std::byte* in, std::byte* out, StreamHandle) = 0;
  virtual void send(const Send&, const std::byte* x, StreamHandle) = 0;
  virtual void recv(const Recv&, std::byte* x, StreamHandle) = 0;
  // Whether the calls above only enqueue. Else they wait for the other ranks' threads to make the same call, so
  // every stream needs a thread of its own to make them, and no graph can be captured.
  virtual bool enqueues_only() const = 0;
  // Throws Error E0601 that names the culprit if a transfer failed or a peer is gone. Cheap: called while waiting.
  virtual void check() = 0;
  // Ends what is enqueued and wakes who waits, here and at the peers; from the thread that makes the calls.
  virtual void abort(const std::string& reason) noexcept = 0;
};

class SharedGpu;

// Bytes that rank 0 makes and every other rank needs (an ncclUniqueId); how they travel is the launcher's business.
std::string nccl_unique_id();
// One GPU per rank. `peers`: the ranks of this process, so that one that fails ends the others; may be null.
// Error E0513 when this build has no NCCL.
std::unique_ptr<GpuCommunicator> nccl_communicator(const std::string& unique_id, const Coordinates& where,
                                                   std::shared_ptr<SharedGpu> peers);
bool have_nccl();
std::string nccl_version();

}  // namespace llmplan::cuda
