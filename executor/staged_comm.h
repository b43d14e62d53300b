// The communicator between processes that share no memory: collectives as direct messages between the members
// of a group, through host memory. Reductions receive every member's part and add in rank order, so results are
// those of LocalWorld to the bit; MPI_Allreduce promises no order. Each rank sends and receives (n − 1)/n of the
// data once (twice for an all-reduce), which is the least there is.
#pragma once

#include <memory>

#include "executor/communicator.h"
#include "executor/transport.h"

namespace llmplan {

// Rank `where.rank` of a grid whose ranks are the transport's processes.
std::unique_ptr<Communicator> staged_communicator(Transport&, const Coordinates& where);

}  // namespace llmplan
