// A rank on this machine's cores: its arenas, its place among the threads, its interpreter.
#include <algorithm>
#include <cstring>
#include <thread>

#include "executor/arena.h"
#include "executor/cpu/cpu_backend.h"
#include "executor/local_comm.h"
#include "executor/rank.h"

namespace llmplan {
namespace {

class CpuRank : public Rank {
 public:
  CpuRank(const RankOptions& o, std::unique_ptr<Communicator> communicator, int threads)
      : device_(o.device_arena), host_(o.host_arena), communicator_(std::move(communicator)),
        backend_(o.where, *communicator_, o.plan->workload.optimizer, threads, device_.data(), host_.data()) {}

  Bytes arena() const override { return device_.allocated(); }
  void read(Bytes offset, std::span<std::byte> out) const override {
    std::memcpy(out.data(), device_.data() + offset.value, out.size());
  }
  void write(Bytes offset, std::span<const std::byte> in) override {
    std::memcpy(device_.data() + offset.value, in.data(), in.size());
  }
  Timeline run(const Execution& execution, bool) override {
    backend_.begin(execution);
    return execute(*execution.program, backend_);
  }
  void cancel() noexcept override { backend_.cancel(); }

 private:
  Arena device_, host_;
  std::unique_ptr<Communicator> communicator_;
  cpu::CpuBackend backend_;
};

}  // namespace

std::vector<std::unique_ptr<Rank>> make_cpu_ranks(const std::vector<RankOptions>& options, LocalWorld& world) {
  const int cores = std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
  std::vector<std::unique_ptr<Rank>> ranks;
  for (const RankOptions& o : options)
    ranks.push_back(make_cpu_rank(o, world.communicator(o.where.rank), std::max(1, cores / world.size())));
  return ranks;
}

std::unique_ptr<Rank> make_cpu_rank(const RankOptions& o, std::unique_ptr<Communicator> communicator, int threads) {
  return std::make_unique<CpuRank>(o, std::move(communicator), threads);
}

}  // namespace llmplan
