#include "planner/lower.h"

#include <limits>
#include <string>

#include "costmodel/error.h"
#include "costmodel/estimate.h"
#include "planner/builder.h"
#include "planner/schedule.h"

namespace llmplan {
namespace lowering {
namespace {

// ---- What cannot be lowered

// Layers × micro-batches of a step. A pass is about 30 instructions, and those fill about 3 GiB at the
// limit; larger steps are for the closed form.
constexpr double kMaxLayerPasses = 3e5;

Infeasible find_obstacle(const Plan& plan) {
  const ModelConfig& m = plan.model;
  const auto text = [](std::int64_t n) { return std::to_string(n); };
  if (const std::string why = why_not_runnable(m); !why.empty())
    return {"model", "the model " + m.name + " (" + why + ")",
            "programs exist for dense Llama-like decoders: RMSNorm, RoPE, SwiGLU, no biases"};
  if (const std::string why = why_not_lowerable(m, plan.workload, plan.strategy); !why.empty())
    return {"strategy", why,
            "programs exist for tp, sp, dp and pp with --schedule 1f1b or gpipe, --zero 0 or 1, --recompute none, full "
            "or N, --attention flash, --optimizer adamw or (in bf16 and fp8) adamw-lean"};
  if (m.num_hidden_layers > std::numeric_limits<decltype(Instr::layer)>::max())
    return {"layers", "a model of " + text(m.num_hidden_layers) + " layers", "programs number up to 32767"};
  if (static_cast<double>(plan.micro_batches()) * static_cast<double>(m.num_hidden_layers) > kMaxLayerPasses)
    return {"batch", "a step of " + text(plan.micro_batches()) + " micro-batches",
            "choose a larger --micro-batch or --dp, or a smaller --global-batch"};
  return {};
}

void require_lowerable(const Plan& plan) {
  const Infeasible obstacle = why_not_lowerable(plan);
  if (!obstacle.constraint.empty()) throw Error("E0305", Exit::usage, obstacle.reason, obstacle.hint);
}

void require_possible(const Plan& plan) {
  const Infeasible broken = check(plan.model, plan.cluster, plan.workload, plan.strategy);
  if (!broken.constraint.empty()) throw Error("E0304", Exit::usage, broken.reason, broken.hint);
}

// ---- The passes of one stage

void load(Builder& b, MicroBatch& mb) {
  mb.ids = b.buffer("ids", b.shape.rows, DType::int32, Category::buffers);
  mb.targets = b.buffer("targets", b.shape.rows, DType::int32, Category::buffers);
  if (b.shape.documents) mb.starts = b.buffer("starts", b.shape.rows, DType::int32, Category::buffers);
  b.emit(Load{b.shape.rows, b.shape.documents}, {}, {b.all(mb.ids), b.all(mb.targets), b.all_if(b.shape.documents, mb.starts)});
}

BufferId receive(Builder& b, std::string_view what, int from) {
  const BufferId x = b.activation(what, b.shape.split_rows * b.shape.hidden);
  b.emit(Recv{from, b.all(x).size}, {}, {b.all(x)});
  return x;
}

void send(Builder& b, BufferId x, int to) { b.emit(Send{to, b.all(x).size}, {b.all(x)}, {}); }

// Every schedule goes through the backward passes in the order of the micro-batches.
bool last(const Builder& b) { return b.micro_batch + 1 == static_cast<int>(b.micro_batches.size()); }

void forward(Builder& b, std::int32_t micro_batch) {
  MicroBatch& mb = b.micro_batches[micro_batch];
  b.phase = Phase::forward;
  b.layer = -1;
  b.micro_batch = micro_batch;
  if (b.stage.first() || b.stage.last() || b.shape.documents) load(b, mb);

  Residual r;
  if (b.stage.first())
    embedding_forward(b, mb, r);
  else
    r = {receive(b, "input", b.stage.index - 1), -1, b.training()};
  for (std::int64_t i = 0; i < b.stage.layers; ++i) {
    b.layer = static_cast<int>(b.stage.first_layer + i);
    mb.layers.push_back(layer_forward(b, b.weights.layers[i], r));
  }
  b.layer = -1;
  if (b.stage.last()) {
    head_forward(b, mb, r);
    if (b.training() && last(b)) reduce_final(b, b.stage.layers);  // the head alone: its backward is part of this
    return;
  }

  if (r.delta >= 0) {
    b.emit(Add{b.shape.split_rows * b.shape.hidden, b.shape.dtype}, {b.all(r.sum), b.all(r.delta)},
           {b.all(r.delta)});
    r.sum = r.delta;
  }
  send(b, r.sum, b.stage.index + 1);
}

void backward(Builder& b, std::int32_t micro_batch) {
  MicroBatch& mb = b.micro_batches[micro_batch];
  b.phase = Phase::backward;
  b.layer = -1;
  b.micro_batch = micro_batch;
  const BufferId gradient =
      b.stage.last() ? head_backward(b, mb) : receive(b, "dsum", b.stage.index + 1);
  for (std::int64_t i = b.stage.layers - 1; i >= 0; --i) {
    b.layer = static_cast<int>(b.stage.first_layer + i);
    layer_recompute(b, b.weights.layers[i], mb.layers[i]);
    layer_backward(b, b.weights.layers[i], mb.layers[i], gradient);
    if (last(b)) reduce_final(b, i);
  }
  b.layer = -1;
  if (b.stage.first())
    embedding_backward(b, mb, gradient);
  else
    send(b, gradient, b.stage.index - 1);
  if (last(b)) reduce_final(b, kEndOfPass);
  mb = {};
}

Program lower_stage(const Plan& plan, Purpose purpose, const Shapes& shape, const StagePlace& stage) {
  Builder b{plan, purpose, shape, stage, {}, {}, {}, {}};
  b.program.stage = stage.index;
  declare_parameters(b);
  gather_weights(b);

  const bool train = purpose == Purpose::train;
  b.micro_batches.resize(train ? plan.micro_batches() : 1);
  if (train) {
    for (const Slot& slot : compute_order(plan.strategy.schedule, stage.index, stage.count, plan.micro_batches()))
      slot.pass == Slot::Pass::forward ? forward(b, slot.micro_batch) : backward(b, slot.micro_batch);
  } else {
    forward(b, 0);
  }
  optimizer_phase(b);
  return std::move(b.program);
}

}  // namespace

}  // namespace lowering

Infeasible why_not_lowerable(const Plan& plan) {
  Infeasible obstacle = lowering::find_obstacle(plan);
  if (!obstacle.constraint.empty()) obstacle.reason += " can be estimated but not yet lowered to a program";
  return obstacle;
}

std::vector<Program> lower(const Plan& plan, Purpose purpose) {
  lowering::require_possible(plan);
  lowering::require_lowerable(plan);
  const Shapes shape = shapes_of(plan.model, plan.cluster, plan.workload, plan.strategy);
  const std::vector<std::int64_t> layers = layer_split(plan.strategy, plan.model.num_hidden_layers);
  const int stages = static_cast<int>(plan.strategy.pp);
  std::vector<Program> programs;
  programs.reserve(stages);
  std::int64_t first_layer = 0;
  for (int i = 0; i < stages; ++i) {
    programs.push_back(lowering::lower_stage(plan, purpose, shape, {i, stages, first_layer, layers[i]}));
    first_layer += layers[i];
  }
  return programs;
}

}  // namespace llmplan
