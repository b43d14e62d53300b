// Who started this process, and as which rank: what mpirun, srun and torchrun say in the environment.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <vector>

namespace llmplan {

struct Launch {
  std::string launcher;                // "torchrun", "Open MPI", …; empty: started by hand
  std::string from;                    // the variables that said so
  int rank = 0, size = 1;
  int local_rank = 0, local_size = 0;  // on this machine; 0: not said
  bool mpi = false;                    // its processes can meet through MPI
  std::string master;                  // else where rank 0 waits for the others; empty: not said
  int port = 0;
  bool active = true;                  // false: variables of a batch script, which srun has not started
};

using Environment = std::function<const char*(const char*)>;  // as std::getenv

// What each launcher's variables say, for those that are there. Error E0507 when one's variables make no sense.
std::vector<Launch> launches(const Environment&);
// The one that started this process; by hand when there is none. Error E0507 when two disagree.
Launch find_launch(const Environment&);

// "node[1,3-4],login" → node1, node3, node4, login: Slurm's compressed lists. Error E0507.
std::vector<std::string> expand_hosts(const std::string& list);

}  // namespace llmplan
