// What transformers on PyTorch computed (tests/executor/golden, made by tools/golden/make_golden.py), and how a run of
// ours is held against it.
#pragma once

#include <doctest/doctest.h>

#include <nlohmann/json.hpp>

#include "costmodel/profiles/profiles.h"
#include "executor/checkpoint.h"
#include "executor/safetensors.h"
#include "tests/executor/tiny_plan.h"

namespace llmplan {

inline const std::string kGoldenFolder = LLMPLAN_SOURCE_DIR "/tests/executor/golden/";

struct Golden {
  std::string folder;
  SafeTensors file;
  nlohmann::json recipe;
  std::int64_t steps, batch, seq;
  std::vector<std::int64_t> ids, targets;

  explicit Golden(const std::string& name)
      : folder(kGoldenFolder + name), file(folder + "/golden.safetensors"),
        recipe(nlohmann::json::parse(file.metadata().at("recipe"))) {
    auto& shape = file.find("ids")->shape;
    steps = shape[0], batch = shape[1], seq = shape[2];
    ids = file.read_integers(*file.find("ids"));
    targets = file.read_integers(*file.find("targets"));
  }
  std::vector<float> floats(const std::string& name) const { return file.read(*file.find(name)); }

  Plan plan(const Strategy& strategy, const Cluster& cluster = local_ranks()) const {
    Plan p;
    p.model = read_model(folder);
    p.cluster = cluster;
    p.workload.seq = seq;
    p.workload.global_batch = batch;
    p.workload.precision = DType::fp32;
    Optimizer& o = p.workload.optimizer;
    o.beta1 = recipe["betas"][0], o.beta2 = recipe["betas"][1];
    o.eps = recipe["eps"], o.weight_decay = recipe["weight_decay"], o.clip = recipe["clip"];
    p.strategy = strategy;
    return p;
  }
  SampleSource source(std::int64_t step) const {
    return [this, step](std::int64_t i, std::span<std::int32_t> x, std::span<std::int32_t> y) {
      auto at = static_cast<std::size_t>(((step - 1) * batch + i) * seq);
      for (std::size_t t = 0; t < x.size(); ++t) {
        x[t] = static_cast<std::int32_t>(ids[at + t]);
        y[t] = static_cast<std::int32_t>(targets[at + t]);
      }
    };
  }
};

// Losses, gradients of the first step and weights after the last, in fp32.
inline void check_against(const Golden& golden, const Strategy& strategy, const Cluster& cluster = local_ranks(),
                          bool timed = true) {
  INFO(golden.folder, " ", describe(strategy));
  Plan plan = golden.plan(strategy, cluster);
  Ranks ranks(plan);
  load_weights(golden.folder + "/initial.safetensors", ranks);
  const auto losses = golden.floats("losses"), norms = golden.floats("grad_norms");
  for (std::int64_t step = 1; step <= golden.steps; ++step) {
    INFO("step ", step);
    auto k = static_cast<std::size_t>(step - 1);
    StepResult r = ranks.step({step, golden.recipe["learning_rates"][k]}, golden.source(step), timed);
    CHECK(std::abs(r.loss / losses[k] - 1) < 1e-6);
    CHECK(std::abs(r.grad_norm / norms[k] - 1) < 1e-5);
    if (step > 1) continue;
    // The buffers hold Σ over tokens / all tokens; PyTorch's is the mean over those that count.
    const float scale = static_cast<float>(golden.batch * golden.seq) / static_cast<float>(r.counted);
    for (auto& t : ranks.tensors()) {
      auto gradient = ranks.read(State::gradients, t.name);
      for (float& g : gradient) g *= scale;
      INFO(t.name);
      CHECK(distance(gradient, golden.floats("gradients." + t.name)) < 1e-5);
    }
  }
  for (auto& t : ranks.tensors()) {
    INFO(t.name);
    CHECK(distance(ranks.read(State::weights, t.name), golden.floats("weights." + t.name)) < 1e-5);
  }
}

// The first step in bf16: no further from the truth than kWorse times PyTorch's own bf16 is, each tensor by itself. Both
// round at every op, but not at the same places: PyTorch also rounds gradients, we round the residual stream's sums.
inline void check_bf16_against(const Golden& golden, const Strategy& strategy, const Cluster& cluster = local_ranks()) {
  constexpr double kWorse = 1.5;
  INFO(golden.folder, " ", describe(strategy));
  Plan plan = golden.plan(strategy, cluster);
  plan.workload.precision = DType::bf16;
  Ranks ranks(plan);
  load_weights(golden.folder + "/initial.safetensors", ranks);
  const StepResult r = ranks.step({1, golden.recipe["learning_rates"][0]}, golden.source(1), false);
  CHECK(std::abs(r.loss / golden.floats("losses")[0] - 1) < kWorse * golden.floats("bf16_distance.losses")[0]);
  const float scale = static_cast<float>(golden.batch * golden.seq) / static_cast<float>(r.counted);
  for (auto& t : ranks.tensors()) {
    auto gradient = ranks.read(State::gradients, t.name);
    for (float& g : gradient) g *= scale;
    const double ours = distance(gradient, golden.floats("gradients." + t.name));
    CHECK_MESSAGE(ours < kWorse * golden.floats("bf16_distance.gradients." + t.name)[0], t.name);
    CHECK(ours > 1e-4);  // it was computed in bf16
  }
}

}  // namespace llmplan
