// `run --hostfile FILE`: the same command, once per rank on the hosts of a file, by mpirun.
#pragma once

#include <string>

#include "costmodel/error.h"
#include "planner/plan.h"

namespace llmplan::cli {

// Returns what the ranks ended with. Error E0601 when one was killed, with its name, instead of mpirun's own code.
// Errors of the file, E0509 when its slots are too few, E0515 when there is no mpirun.
Exit run_over_hosts(const std::string& hostfile, const Plan&);

}  // namespace llmplan::cli
