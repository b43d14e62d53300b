// The transport over plain sockets, for launchers that bring no MPI. Every process is connected to every other,
// and a thread reads: a process that dies is noticed at once, also while nobody waits for it.
#pragma once

#include <memory>
#include <string>

#include "executor/transport.h"

namespace llmplan {

struct Meeting {
  int rank = 0, size = 1;
  std::string master;      // name or address of rank 0's machine
  int port = 0;            // where rank 0 listens; the others come back until it does
  double patience = 60;    // seconds
};

// Returns when all are connected. Error E0516 when they do not meet.
std::unique_ptr<Transport> meet_over_tcp(const Meeting&);

}  // namespace llmplan
