// The cost model as the simulator's clock.
#include <algorithm>
#include <array>
#include <unordered_map>

#include "costmodel/error.h"
#include "costmodel/estimate.h"
#include "planner/simulate.h"

namespace llmplan {
namespace {

// A program has 10^5 instructions but some 100 different ops.
class DeviceTimes : public TimeModel {
 public:
  explicit DeviceTimes(const Plan& plan) : cluster_(plan.cluster), strategy_(plan.strategy) {
    for (std::size_t work = 0; work < slowdown_.size(); ++work)
      for (std::size_t beside = 0; beside < slowdown_.size(); ++beside)
        slowdown_[work][beside] = slowdown(cluster_.device.contention, static_cast<OpClass>(work), static_cast<OpClass>(beside));
  }

  Seconds time(const Op& op) const override {
    const auto [at, added] = memo_.try_emplace(op);
    if (added) at->second = is_transfer(op) ? transfer_time(op, cluster_, strategy_) : alone(op);
    return at->second;
  }
  // Each op beside it takes its own part of what the device has.
  double speed(const Op& op, const std::vector<const Op*>& active) const override {
    double longer = 1;
    for (const Op* other : active)
      if (other != &op) longer *= slowdown_[static_cast<std::size_t>(class_of(op))][static_cast<std::size_t>(class_of(*other))];
    return 1 / longer;
  }

 protected:
  virtual Seconds alone(const Op& op) const { return op_time(op, cluster_.device); }
  Cluster cluster_;
  Strategy strategy_;

 private:
  mutable std::unordered_map<Op, Seconds, OpHash> memo_;
  std::array<std::array<double, 4>, 4> slowdown_;  // by OpClass: of what, beside what
};

// All ranks share the cores of one machine. An op is priced as if its rank had `threads_` cores to itself;
// where more threads run than there are cores, each gets its share of them.
class SharedCores : public DeviceTimes {
 public:
  explicit SharedCores(const Plan& plan)
      : DeviceTimes(plan), cores_(std::max(plan.cluster.device.cores, 1)),
        ranks_(static_cast<int>(plan.strategy.devices())),
        ranks_per_stage_(static_cast<int>(plan.strategy.devices() / plan.strategy.pp)),
        threads_(std::max(1, cores_ / ranks_)) {}

  bool one_machine() const override { return true; }
  double speed(const Op&, const std::vector<const Op*>& active) const override {
    int wanted = 0;
    for (const Op* op : active)
      // A collective's own time is that of its whole group on these cores; a transfer is one copy per rank.
      wanted += is_transfer(*op) ? std::min(ranks_per_stage_, cores_) : ranks_per_stage_ * threads_;
    return std::min(1.0, static_cast<double>(cores_) / wanted);
  }

 private:
  Seconds alone(const Op& op) const override {
    return op_time(op, cluster_.device, std::min(ranks_, cores_), threads_);
  }
  int cores_, ranks_, ranks_per_stage_, threads_;
};

}  // namespace

std::unique_ptr<TimeModel> time_model(const Plan& plan) {
  if (!plan.cluster.parts.empty())
    throw Error("E0305", Exit::usage, "a cluster of several device types has no program yet: it is estimated in closed form only",
                "`llmplan estimate MODEL --cluster FILE --tp … --pp …` prices it and proposes how many layers each stage holds");
  if (plan.cluster.device.cpu && plan.cluster.nodes == 1) return std::make_unique<SharedCores>(plan);
  return std::make_unique<DeviceTimes>(plan);
}

}  // namespace llmplan
