// The training step of a plan on this machine's GPUs, on random tokens; nothing is read from or written to disk.
//
//   gpu_step_bench PLAN [STEPS]      one line of JSON; exit 5 without a GPU
//
// LLMPLAN_CUDA_LIBRARY names the backend, if it does not lie beside this program. tools/gpu-check calls this.
#include <algorithm>
#include <cstdlib>
#include <iostream>
#include <nlohmann/json.hpp>
#include <random>

#include "costmodel/error.h"
#include "executor/file.h"
#include "executor/gpu.h"
#include "executor/ranks.h"
#include "planner/plan_file.h"

namespace llmplan {
namespace {

nlohmann::json measure(const Plan& plan, std::int64_t steps) {
  Ranks ranks(plan);
  ranks.init(plan.workload.seed);
  const auto vocabulary = static_cast<std::uint32_t>(plan.model.vocab_size);
  const SampleSource samples = [&](std::int64_t i, std::span<std::int32_t> ids, std::span<std::int32_t> targets) {
    std::minstd_rand random(static_cast<unsigned>(i + 1));
    for (auto& id : ids) id = static_cast<std::int32_t>(random() % vocabulary);
    for (auto& t : targets) t = static_cast<std::int32_t>(random() % vocabulary);
  };
  std::vector<double> seconds, losses;
  for (std::int64_t step = 1; step <= steps + 2; ++step) {  // the first captures, the second warms up
    const StepResult r = ranks.step({step, 1e-5}, samples, false);
    losses.push_back(r.loss);
    if (step > 2) seconds.push_back(r.time.value);
  }
  std::sort(seconds.begin(), seconds.end());
  const std::int64_t tokens = plan.workload.global_batch * plan.workload.seq;
  const double median = seconds[seconds.size() / 2];
  return {{"step_s", median},
          {"fastest_s", seconds.front()},
          {"slowest_s", seconds.back()},
          {"tokens", tokens},
          {"tokens_per_s", static_cast<double>(tokens) / median},
          {"predicted_s", plan.prediction.step.value},
          {"arena", ranks.allocated_arena(0).value},
          {"predicted_arena", ranks.predicted_arena(0).value},
          {"micro_batch", plan.strategy.micro_batch},
          {"attention", ranks.attention()},
          {"losses", losses}};
}

}  // namespace
}  // namespace llmplan

int main(int argc, char** argv) {
  using namespace llmplan;
  if (argc < 2) {
    std::cerr << "usage: gpu_step_bench PLAN [STEPS]\n";
    return 2;
  }
  try {
    std::string why_not;
    if (gpus(&why_not).empty()) {
      std::cerr << "no usable GPU: " << why_not << '\n';
      return 5;
    }
    const std::string file = argv[1];
    std::cout << measure(plan_from_json(read_file(file), file), argc > 2 ? std::atoll(argv[2]) : 10).dump() << '\n';
  } catch (const Error& e) {
    std::cerr << e.code << ": " << e.message << '\n';
    return static_cast<int>(e.exit);
  }
}
