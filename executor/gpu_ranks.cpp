// Ranks on this machine's GPUs: one each where there are enough (NCCL), else all on the first one.
#include <fmt/format.h>

#include <thread>

#include "costmodel/error.h"
#include "executor/gpu.h"
#include "executor/rank.h"

namespace llmplan {
namespace {

class OnGpu : public Rank {
 public:
  explicit OnGpu(std::unique_ptr<GpuRank> rank) : rank_(std::move(rank)) {}
  Bytes arena() const override { return rank_->arena(); }
  std::string gpu() const override { return rank_->bus(); }
  std::string attention() const override { return rank_->attention(); }
  void read(Bytes offset, std::span<std::byte> out) const override { rank_->read(Space::device, offset, out); }
  void write(Bytes offset, std::span<const std::byte> in) override { rank_->write(Space::device, offset, in); }
  Timeline run(const Execution& execution, bool timed) override { return rank_->run(execution, timed); }
  void cancel() noexcept override { rank_->cancel(); }

 private:
  std::unique_ptr<GpuRank> rank_;
};

}  // namespace

std::vector<std::unique_ptr<Rank>> make_gpu_ranks(const std::vector<RankOptions>& options) {
  std::string why_not;
  const auto devices = gpus(&why_not);
  if (devices.empty())
    throw Error("E0341", Exit::environment,
                fmt::format("the plan is for {}, and there is no GPU to run on: {}", options.front().plan->cluster.name, why_not),
                "plan for this machine's cores: llmplan tune MODEL --cluster local --precision fp32");
  const GpuApi& api = *gpu_library().api;
  const bool share = options.size() > devices.size();
  const std::string id = options.size() > 1 && !share ? api.nccl_unique_id() : "";
  const Coordinates& grid = options.front().where;
  const std::shared_ptr<GpuPeers> peers = api.make_peers(grid.tp_size, grid.dp_size, grid.pp_size);
  std::vector<std::unique_ptr<Rank>> ranks(options.size());
  std::vector<std::exception_ptr> errors(options.size());
  {
    std::vector<std::jthread> threads;  // NCCL's start is a collective
    for (std::size_t r = 0; r < options.size(); ++r)
      threads.emplace_back([&, r] {
        const RankOptions& o = options[r];
        try {
          ranks[r] = std::make_unique<OnGpu>(api.make_rank({share ? 0 : static_cast<int>(r), o.where, &o.plan->workload.optimizer,
                                                            o.programs, o.device_arena, o.host_arena, id, peers}));
        } catch (...) {
          errors[r] = std::current_exception();
        }
      });
  }
  for (auto& e : errors)
    if (e) std::rethrow_exception(e);
  return ranks;
}

std::unique_ptr<Rank> make_gpu_rank(const RankOptions& o, int device, const std::function<std::string(std::string)>& share) {
  std::string why_not;
  const auto devices = gpus(&why_not);
  if (device >= static_cast<int>(devices.size()))
    throw Error("E0341", Exit::environment,
                devices.empty() ? fmt::format("the plan is for {}, and there is no GPU to run on: {}", o.plan->cluster.name, why_not)
                                : fmt::format("rank {} is the {}th of this machine, which has {} GPUs", o.where.rank, device + 1, devices.size()),
                "start as many ranks per machine as it has GPUs");
  const GpuApi& api = *gpu_library().api;
  const std::string id = share(o.where.rank == 0 ? api.nccl_unique_id() : "");
  return std::make_unique<OnGpu>(
      api.make_rank({device, o.where, &o.plan->workload.optimizer, o.programs, o.device_arena, o.host_arena, id, nullptr}));
}

}  // namespace llmplan
