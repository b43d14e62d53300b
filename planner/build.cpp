#include "planner/build.h"

#include <algorithm>

#include "costmodel/estimate.h"
#include "planner/layout.h"
#include "planner/overlap.h"
#include "planner/simulate.h"
#include "planner/verify.h"

namespace llmplan {

Lowered build(const Plan& plan, Purpose purpose) {
  Lowered out{lower(plan, purpose), {}};
  out.layouts.reserve(out.programs.size());
  for (Program& p : out.programs) {
    overlap(p);
    out.layouts.push_back(place(p));
  }
  verify(out.programs, out.layouts);
  return out;
}

void predict(Plan& plan) {
  plan.strategy.layers_per_stage = layer_split(plan.strategy, plan.model.num_hidden_layers);
  const Lowered lowered = build(plan);
  const Simulation run = simulate(lowered.programs, *time_model(plan));

  Prediction& p = plan.prediction;
  const double step = run.step.value, devices = static_cast<double>(plan.strategy.devices());
  p = {};
  p.step = run.step;
  p.tokens_per_s = static_cast<double>(plan.workload.global_batch * sequence_length(plan.model, plan.workload)) / step;
  const double flops_per_device = step_flops(plan.model, plan.workload, plan.strategy).model_causal.value / step / devices;
  p.tflops_per_device = flops_per_device / 1e12;
  const double peak = peak_of_rank(plan.cluster, plan.workload.precision, plan.strategy.devices()).value;
  if (peak > 0) p.mfu = flops_per_device / peak;
  for (const Layout& l : lowered.layouts) p.arena = std::max(p.arena, l.device_arena);
  p.peak_memory = p.arena + plan.cluster.device.reserve;
  plan.digest = digest(lowered.programs);
}

}  // namespace llmplan
