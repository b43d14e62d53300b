// Whole programs on GPUs, real or emulated: plans whose sizes the GPU kernels take, and what they are held against.
#pragma once

#include <algorithm>
#include <map>

#include "executor/learning_rate.h"
#include "tests/executor/golden.h"

namespace llmplan::gpu_programs {

inline Cluster gpus_for(const Strategy& s) {
  Cluster c = read_cluster("h100-80g-sxm");
  c.nodes = 1;
  c.devices_per_node = s.devices();
  return c;
}

// Sizes that GPU kernels take: rows of whole 16-byte vectors.
inline Plan gpu_plan(const Strategy& s, bool tied = false, std::int64_t layers = 2) {
  Plan p = tiny_plan(s, tied);
  p.model.head_dim = 8;
  p.model.hidden_size = 32;
  p.model.num_attention_heads = 4;
  p.model.num_key_value_heads = 4;
  p.model.intermediate_size = 48;
  p.model.num_hidden_layers = layers;
  p.workload.seq = 12;
  p.workload.global_batch = 4;
  p.cluster = gpus_for(s);
  return p;
}

struct Trajectory {
  std::vector<double> losses, norms;
  std::map<std::string, std::vector<float>> gradients, weights;
};

inline Trajectory train(const Plan& plan, std::int64_t steps, bool timed = false) {
  Ranks ranks(plan);
  ranks.init(plan.workload.seed);
  Trajectory t;
  for (std::int64_t step = 1; step <= steps; ++step) {
    StepResult r = ranks.step({step, learning_rate(plan.workload.optimizer, step, 20)}, tiny_source(step), timed);
    t.losses.push_back(r.loss);
    t.norms.push_back(r.grad_norm);
    if (step == 1)
      for (auto& tensor : ranks.tensors()) t.gradients[tensor.name] = ranks.read(State::gradients, tensor.name);
  }
  CHECK(ranks.first_difference() == "");
  for (auto& tensor : ranks.tensors()) t.weights[tensor.name] = ranks.read(State::weights, tensor.name);
  return t;
}

// The same plan on the CPU backend, one rank: it shares neither kernels nor interpreter with what is tested.
inline const Trajectory& on_cpu(bool tied, std::int64_t layers) {
  static std::map<std::pair<bool, std::int64_t>, Trajectory> known;
  auto [at, added] = known.try_emplace({tied, layers});
  if (added) {
    Plan p = gpu_plan({}, tied, layers);
    p.cluster = local_ranks();
    at->second = train(p, 2);
  }
  return at->second;
}

// fp32 rounds to 6e-8; sums in another order, over up to a few hundred terms, differ by some tens of that.
inline constexpr double kGradient = 2e-6, kLoss = 5e-6;

inline void check_equal(const Trajectory& got, const Trajectory& expected) {
  for (std::size_t k = 0; k < got.losses.size(); ++k) CHECK(std::abs(got.losses[k] / expected.losses[k] - 1) < kLoss);
  CHECK(std::abs(got.norms[0] / expected.norms[0] - 1) < kGradient);
  for (auto& [name, gradient] : expected.gradients) {
    INFO(name);
    CHECK(distance(got.gradients.at(name), gradient) < kGradient);
  }
}

// Every kind of split and every collective, with 1, 2 and 4 ranks.
inline std::vector<Strategy> strategies() {
  std::vector<Strategy> all;
  auto add = [&](std::int64_t tp, std::int64_t dp, std::int64_t pp, bool sp, int zero, std::int64_t mb,
                 Schedule schedule = Schedule::one_f_one_b, Recompute recompute = Recompute::none) {
    Strategy s;
    s.tp = tp, s.dp = dp, s.pp = pp, s.sp = sp, s.zero = zero, s.micro_batch = mb, s.schedule = schedule, s.recompute = recompute;
    if (dp > 1 && sp == (pp > 1)) s.grad_bucket = 1;  // else one bucket
    all.push_back(s);
  };
  add(1, 1, 1, false, 0, 4);
  add(1, 1, 1, false, 0, 2, Schedule::one_f_one_b, Recompute::full);
  add(2, 1, 1, false, 0, 2);
  add(2, 1, 1, true, 0, 2);
  add(4, 1, 1, true, 0, 2);
  add(1, 2, 1, false, 0, 1);
  add(1, 2, 1, false, 1, 2);
  add(1, 4, 1, false, 1, 1);
  add(1, 1, 2, false, 0, 1);
  add(1, 1, 2, false, 0, 2, Schedule::gpipe, Recompute::full);
  add(1, 1, 4, false, 0, 1);
  add(2, 2, 1, true, 1, 2);
  add(2, 1, 2, true, 0, 1);
  add(1, 2, 2, false, 1, 1);
  add(1, 2, 2, false, 0, 1);
  all.back().grad_bucket = 1;
  return all;
}

// The i-th of strategies(): losses, norm and gradients are those of one rank of the CPU.
inline void check_strategy(std::size_t i) {
  const Strategy s = strategies()[i];
  const bool tied = i % 2 == 1;
  INFO(describe(s), tied ? ", tied" : ", untied");
  // The second step's loss tells whether the first one's update was right: once per kind of optimizer state.
  const std::int64_t layers = std::max<std::int64_t>(2, s.pp), steps = i == 0 || s.zero > 0 ? 2 : 1;
  check_equal(train(gpu_plan(s, tied, layers), steps), on_cpu(tied, layers));
}

}  // namespace llmplan::gpu_programs
