// A machine with GPUs that compute nothing and take known times: the simulator is their clock. Stands in for the GPU
// library while it lives.
#pragma once

#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include "executor/gpu.h"
#include "planner/simulate.h"

namespace llmplan::test {

// What the made-up cards lose side by side, of OpClass beside OpClass.
inline constexpr double kSlowdown[4][4] = {{1, 1.5, 1.25, 1.0625}, {1.75, 1, 2, 1.125}, {1.375, 1.1875, 1, 1}, {3, 1.4375, 1, 1}};

// Its own idea of time: nothing of llmplan's cost model.
struct MadeUpClock : TimeModel {
  Seconds time(const Op& op) const override {
    constexpr double seconds[] = {3e-3, 1e-3, 2.5e-3, 7e-4};
    return {seconds[static_cast<int>(class_of(op))]};
  }
  double speed(const Op& op, const std::vector<const Op*>& active) const override {
    double slowdown = 1;
    for (const Op* other : active)
      if (other != &op) slowdown *= kSlowdown[kind(op)][kind(*other)];
    return 1 / slowdown;
  }
  static std::size_t kind(const Op& op) {
    // Transfers have no partner in a simulation of one stage; these stand in for them.
    if (auto* c = std::get_if<Collective>(&op); c && c->kind == Collective::Kind::broadcast) return 3;
    return static_cast<std::size_t>(class_of(op));
  }
};

inline std::string made_up_bus(int card) { return "made up " + std::to_string(card); }

class MadeUpRank : public GpuRank {
 public:
  explicit MadeUpRank(const GpuRankOptions& o) : arena_(o.device_arena), bus_(made_up_bus(o.device)) {}
  Bytes arena() const override { return arena_; }
  Bytes reserve() const override { return {}; }
  std::string bus() const override { return bus_; }
  std::string attention() const override { return ""; }
  void read(Space, Bytes, std::span<std::byte> out) override { std::fill(out.begin(), out.end(), std::byte{0}); }
  void write(Space, Bytes, std::span<const std::byte>) override {}
  Timeline run(const Execution& execution, bool) override {
    std::vector<Program> alone{*execution.program};
    alone[0].stage = 0;
    for (Instr& in : alone[0].instrs)
      if (class_of(in.op) == OpClass::transfer) in.op = Collective{Collective::Kind::broadcast, Axis::dp, {1}, DType::fp32};
    return simulate(alone, MadeUpClock{}).stages[0];
  }
  void cancel() noexcept override {}

 private:
  Bytes arena_;
  std::string bus_;
};

struct MadeUpPeers : GpuPeers {
  void abort(const std::string&) noexcept override {}
};

class MadeUpGpus {
 public:
  explicit MadeUpGpus(int count) {
    cards() = count;
    use_gpu_library(&library_);
  }
  ~MadeUpGpus() { use_gpu_library(nullptr); }
  MadeUpGpus(const MadeUpGpus&) = delete;
  MadeUpGpus& operator=(const MadeUpGpus&) = delete;

 private:
  static int& cards() {
    static int n = 0;
    return n;
  }
  static std::vector<GpuInfo> devices() {
    std::vector<GpuInfo> all;
    for (int i = 0; i < cards(); ++i) all.push_back({"Made-up GPU", Bytes{1LL << 36}, Bytes{1LL << 36}, 1, 8, 0, {1e9}, {1e9}, made_up_bus(i)});
    return all;
  }
  GpuApi api_{kGpuApi,
              devices,
              [] { return std::string("made up"); },
              [] { return std::string("id"); },
              [](int, int, int) -> std::shared_ptr<GpuPeers> { return std::make_shared<MadeUpPeers>(); },
              [](const GpuRankOptions& o) -> std::unique_ptr<GpuRank> { return std::make_unique<MadeUpRank>(o); }};
  GpuLibrary library_{&api_, ""};
};

}  // namespace llmplan::test
