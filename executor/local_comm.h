// Ranks that are threads of one process: collectives read and write the other ranks' buffers directly,
// without scratch. Waiting threads sleep, because there may be more ranks than cores.
#pragma once

#include <memory>

#include "executor/communicator.h"

namespace llmplan {

class LocalWorld {
 public:
  LocalWorld(int tp, int dp, int pp);
  ~LocalWorld();
  LocalWorld(const LocalWorld&) = delete;
  LocalWorld& operator=(const LocalWorld&) = delete;

  int size() const;
  Coordinates coordinates(int rank) const;
  // The seam of one rank; lives no longer than the world.
  std::unique_ptr<Communicator> communicator(int rank);
  void abort(const std::string& reason) noexcept;

  struct State;

 private:
  std::unique_ptr<State> state_;
};

}  // namespace llmplan
