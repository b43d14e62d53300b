// Ranks on this machine's GPUs, one each.
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
  void read(Bytes offset, std::span<std::byte> out) const override { rank_->read(Space::device, offset, out); }
  void write(Bytes offset, std::span<const std::byte> in) override { rank_->write(Space::device, offset, in); }
  Timeline run(const Execution& execution, bool timed) override { return rank_->run(execution, timed); }

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
  if (options.size() > devices.size())
    throw Error("E0341", Exit::environment,
                fmt::format("the plan has {} ranks and this machine {} GPU{}", options.size(), devices.size(),
                            devices.size() == 1 ? "" : "s"),
                "plan for the GPUs that are here");
  const GpuApi& api = *gpu_library().api;
  const std::string id = options.size() > 1 ? api.nccl_unique_id() : "";
  std::vector<std::unique_ptr<Rank>> ranks(options.size());
  std::vector<std::exception_ptr> errors(options.size());
  {
    std::vector<std::jthread> threads;  // NCCL's start is a collective
    for (std::size_t r = 0; r < options.size(); ++r)
      threads.emplace_back([&, r] {
        const RankOptions& o = options[r];
        try {
          ranks[r] = std::make_unique<OnGpu>(api.make_rank({static_cast<int>(r), o.where, &o.plan->workload.optimizer, o.programs,
                                                            o.device_arena, o.host_arena, id}));
        } catch (...) {
          errors[r] = std::current_exception();
        }
      });
  }
  for (auto& e : errors)
    if (e) std::rethrow_exception(e);
  return ranks;
}

}  // namespace llmplan
