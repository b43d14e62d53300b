// What the executor needs of a rank, whatever it runs on: memory that is addressed as laid out, and the
// interpretation of a program.
#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "executor/execution.h"
#include "planner/build.h"
#include "planner/plan.h"
#include "planner/simulate.h"

namespace llmplan {

class Communicator;
class LocalWorld;

class Rank {
 public:
  virtual ~Rank() = default;
  virtual Bytes arena() const = 0;  // device bytes that were taken from the system
  virtual Bytes beside() const { return {}; }  // what a process of the rank's own holds now, outside all arenas
  virtual std::string attention() const { return ""; } // whose kernels carry it out, where there is a choice
  virtual std::string gpu() const { return ""; }       // PCI address of the GPU that it runs on; empty: on cores
  // Contents of the device arena. One thread at a time, unless the bytes are different ones on a CPU.
  virtual void read(Bytes offset, std::span<std::byte> out) const = 0;
  virtual void write(Bytes offset, std::span<const std::byte> in) = 0;
  // Interprets a program once; the timeline may be empty unless `timed`.
  virtual Timeline run(const Execution&, bool timed) = 0;
  virtual void cancel() noexcept {}  // from any thread: end run() soon
};

struct RankOptions {
  Coordinates where;
  const Plan* plan = nullptr;
  std::vector<const Program*> programs;  // all that will run; the first is training
  Bytes device_arena{}, host_arena{};
};

std::vector<std::unique_ptr<Rank>> make_cpu_ranks(const std::vector<RankOptions>&, LocalWorld&);  // cpu/cpu_rank.cpp
std::unique_ptr<Rank> make_cpu_rank(const RankOptions&, std::unique_ptr<Communicator>, int threads);
std::vector<std::unique_ptr<Rank>> make_process_ranks(const std::vector<RankOptions>&, LocalWorld&);  // process_rank.cpp
std::vector<std::unique_ptr<Rank>> make_gpu_ranks(const std::vector<RankOptions>&);               // gpu_ranks.cpp
// One of several, in processes of their own: the bytes that rank 0 gives to `share` come back in all of them.
std::unique_ptr<Rank> make_gpu_rank(const RankOptions&, int device, const std::function<std::string(std::string)>& share);

}  // namespace llmplan
