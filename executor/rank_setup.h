// How the ranks of a run are placed and talk to each other: what its speed is the speed of.
#pragma once

#include <string>

namespace llmplan {

struct RankSetup {
  int ranks = 1;
  // "none" (a single rank), "threads" (memory of one process), "processes" (shared memory), "tcp", "mpi" (both through
  // memory of the host), "nccl", "shared card" (copies inside one GPU).
  std::string communicator = "none";
  std::string device;          // what rank 0 runs on, as its driver or the kernel calls it; empty: not known
  bool cpu = true;
  int devices = 1;             // of rank 0's machine: the GPUs that its ranks use, or the cores
  int ranks_on_devices = 1;    // the ranks of that machine
  bool operator==(const RankSetup&) const = default;

  bool shares_card() const { return !cpu && ranks_on_devices > devices; }
};

std::string describe(const RankSetup&);  // "4 ranks as threads on 2 cores (AMD EPYC …)"
// What is to be known before the speed of such a run is compared with anything; empty: nothing.
std::string caution(const RankSetup&);
std::string cpu_name();  // as the kernel calls it; "CPU" where it does not say

}  // namespace llmplan
