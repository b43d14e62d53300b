// GPUs as the executor sees them. The backend lies in a library of its own, libllmplan_cuda.so beside the
// binary, which is loaded when somebody asks for a GPU: llmplan starts, plans and trains on the CPU on
// machines that have neither driver nor toolkit, and `estimate` does not pay for loading cuBLAS.
#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "costmodel/strategy.h"
#include "costmodel/units.h"
#include "executor/backend.h"
#include "executor/execution.h"
#include "planner/program.h"

namespace llmplan {

struct GpuInfo {
  std::string name;        // "NVIDIA H200"
  Bytes memory{}, free{};
  int multiprocessors = 0, major = 0, minor = 0;
  FlopsPerSecond vector_peak{};         // fp32: processors · lanes · 2 · clock
  BytesPerSecond memory_bandwidth{};    // bus width · clock; 0: the driver does not say
  std::string bus;                      // PCI address, by which NVML knows it
};

// A rank on a GPU: its arenas and its backend. Calls come from one thread at a time.
class GpuRank {
 public:
  virtual ~GpuRank() = default;
  virtual Bytes arena() const = 0;    // device bytes that programs use, exactly as laid out
  virtual Bytes reserve() const = 0;  // device bytes beside it: workspace, scratch
  virtual std::string bus() const = 0;  // of its GPU, as GpuInfo's
  virtual std::string attention() const = 0;  // whose kernels carry it out, and why; empty: the programs have none
  // Contents of buffers, by offset in the arena of `space`.
  virtual void read(Space space, Bytes offset, std::span<std::byte> out) = 0;
  virtual void write(Space space, Bytes offset, std::span<const std::byte> in) = 0;
  // Interprets a program once; the timeline is empty unless `timed`.
  virtual Timeline run(const Execution&, bool timed) = 0;
  virtual void cancel() noexcept = 0;  // from any thread: end run() soon
};

// What the ranks of one process have in common: one that fails ends the others, and those that share a GPU meet here.
class GpuPeers {
 public:
  virtual ~GpuPeers() = default;
  virtual void abort(const std::string& reason) noexcept = 0;
};

struct GpuRankOptions {
  int device = 0;
  Coordinates where;
  const Optimizer* optimizer = nullptr;
  std::vector<const Program*> programs;  // all that will run; the first is training
  Bytes device_arena{}, host_arena{};
  std::string nccl_id;                   // every rank has a GPU; empty: a single rank, or all share one
  std::shared_ptr<GpuPeers> peers;       // of this process; needed by ranks that share a GPU
};

struct GpuApi {
  int version;  // kGpuApi; another one is refused
  std::vector<GpuInfo> (*devices)();     // Error E0511 with the driver's words when there is no usable one
  std::string (*versions)();             // "driver 13.0, …, cuBLASLt 130100, NCCL 2.28.9, cuDNN 9.19.0"
  std::string (*nccl_unique_id)();
  std::shared_ptr<GpuPeers> (*make_peers)(int tp, int dp, int pp);
  std::unique_ptr<GpuRank> (*make_rank)(const GpuRankOptions&);
};
inline constexpr int kGpuApi = 3;

struct GpuLibrary {
  const GpuApi* api = nullptr;  // null: not to be had
  std::string why_not;          // then: one sentence
};
// Loads the library once; LLMPLAN_DEVICE=cpu pretends that there is none.
const GpuLibrary& gpu_library();
// From now on this one stands in for the loaded library; nullptr: no longer. For tests.
void use_gpu_library(const GpuLibrary*);
// The usable GPUs of this machine; empty, with the reason, when there are none.
std::vector<GpuInfo> gpus(std::string* why_not = nullptr);

struct GpuSummary {
  std::vector<GpuInfo> gpus;
  std::string versions;  // of the backend's libraries; empty without a backend
  std::string why_none;  // why there is no usable GPU; empty if there is one
};
GpuSummary gpu_summary();

}  // namespace llmplan
