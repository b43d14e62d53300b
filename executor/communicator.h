// The seam that local threads, MPI and NCCL fill: collectives over the groups of a rank, and transfers
// between neighbours. All calls block until the local buffers may be used again; reductions add in
// rank order, so results do not depend on timing.
#pragma once

#include <chrono>
#include <cstddef>
#include <string>

#include "costmodel/op.h"
#include "executor/backend.h"

namespace llmplan {

class Communicator {
 public:
  using Time = std::chrono::steady_clock::time_point;

  virtual ~Communicator() = default;

  // `reads` and `writes` follow the operand convention of op.h; `in` is null for the in-place forms.
  // Calls on one axis happen in the same order on every rank of the group; calls on different axes, and
  // transfers, may run at the same time from different threads.
  // Each call returns when its last participant had arrived, so that a timeline can tell a transfer from
  // the wait for a slower rank.
  virtual Time collective(const Collective&, const std::byte* in, std::byte* out) = 0;
  virtual Time send(const Send&, const std::byte* x) = 0;
  virtual Time recv(const Recv&, std::byte* x) = 0;

  // Wakes every rank that is blocked or will block; they throw Error E0601 with this reason.
  virtual void abort(const std::string& reason) noexcept = 0;
};

}  // namespace llmplan
