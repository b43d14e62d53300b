// The seam that local ranks, MPI and NCCL fill: collectives over the groups of a rank, and transfers
// between neighbours. All calls block until the local buffers may be used again; reductions add in
// rank order, so results do not depend on timing.
#pragma once

#include <chrono>
#include <cstddef>
#include <string>

#include "costmodel/error.h"
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

  // Wakes every rank that is blocked or will block; they throw RunStopped with this reason.
  virtual void abort(const std::string& reason) noexcept = 0;
};

// What every other rank throws when one is lost or fails: Error E0601, with that one's name.
struct RunStopped : Error {
  explicit RunStopped(const std::string& reason)
      : Error("E0601", Exit::rank_lost, "the run was stopped: " + reason,
              "the other ranks stopped because of that one; --resume continues") {}
};

// Ranks of one group that are not at the same instruction: Error E0320.
[[noreturn]] void refuse_mismatch(int rank, const Collective& here, const Collective& there);
[[noreturn]] void refuse_mismatch(int rank, const Recv& expected, std::int64_t sent);
[[noreturn]] void refuse_axis(int rank, Axis);  // the rank is in no group of it

// rank = tp + tp_size·(dp + dp_size·pp)
Coordinates coordinates_of(int rank, int tp, int dp, int pp);
std::string name_of(const Coordinates&);  // "rank 3 (tp 1, dp 1, pp 0)"

}  // namespace llmplan
