// Ranks of one machine, threads of a process or processes that were forked from one: collectives read and
// write the other ranks' buffers directly, without scratch. Waiting ranks sleep, because there may be more
// of them than cores.
#pragma once

#include <memory>

#include "executor/communicator.h"
#include "executor/shared_memory.h"

namespace llmplan {

class LocalWorld {
 public:
  LocalWorld(int tp, int dp, int pp);
  ~LocalWorld();
  LocalWorld(const LocalWorld&) = delete;
  LocalWorld& operator=(const LocalWorld&) = delete;

  int size() const;
  Coordinates coordinates(int rank) const;
  // The seam of one rank; lives no longer than the world. Between processes, operands must lie in memory
  // that all of them share at the same address.
  std::unique_ptr<Communicator> communicator(int rank);
  // Nothing that a killed rank leaves behind can keep this from waking the others.
  void abort(const std::string& reason) noexcept;
  std::string why_stopped() const;  // the reason; empty before

  struct State;

 private:
  SharedMemory memory_;
  State* state_;
};

}  // namespace llmplan
