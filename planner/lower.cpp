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

// Layers × micro-batches of a step. A pass is about 30 instructions, and those fill about 10 GiB at the
// limit; larger steps are for the closed form.
constexpr double kMaxLayerPasses = 1e6;

[[noreturn]] void refuse(const std::string& what, const std::string& hint) {
  throw Error("E0305", Exit::usage, what + " can be estimated but not yet lowered to a program", hint);
}

void require_lowerable(const Plan& plan) {
  const Strategy& s = plan.strategy;
  if (const std::string why = why_not_runnable(plan.model); !why.empty())
    refuse("the model " + plan.model.name + " (" + why + ")",
           "programs exist for dense Llama-family decoders: RMSNorm, RoPE, SwiGLU, no biases");
  if (s.cp > 1) refuse("context parallelism", "use --cp 1; --tp N --sp splits activations too");
  if (s.ep > 1) refuse("expert parallelism", "use --ep 1");
  if (s.vpp > 1) refuse("interleaved stages", "use --vpp 1 --schedule 1f1b");
  if (s.zero >= 2) refuse("ZeRO-" + std::to_string(s.zero), "use --zero 1 or --zero 0");
  if (s.recompute == Recompute::selective) refuse("selective recomputation", "use --recompute none or full");
  if (s.attention != AttentionKernel::flash) refuse("unfused attention", "use --attention flash");
  if (s.offload != Offload{}) refuse("offloading", "leave out --offload");
  if (plan.workload.optimizer.kind != OptimizerKind::adamw)
    refuse("the optimizer " + std::string(name_of(plan.workload.optimizer.kind)), "use --optimizer adamw");
  if (plan.model.num_key_value_heads % s.tp != 0)
    refuse("tp=" + std::to_string(s.tp) + " over " + std::to_string(plan.model.num_key_value_heads) + " key/value heads",
           "choose a tp that divides them");
  const DType t = plan.workload.precision;
  if (t != DType::fp32 && t != DType::bf16 && t != DType::fp16)
    refuse("the precision " + std::string(name_of(t)), "use --precision bf16, fp16 or fp32");
  if (plan.model.num_hidden_layers > std::numeric_limits<decltype(Instr::layer)>::max())
    refuse("a model of " + std::to_string(plan.model.num_hidden_layers) + " layers", "programs number up to 32767");
  const double layer_passes = double(plan.micro_batches()) * double(plan.model.num_hidden_layers);
  if (layer_passes > kMaxLayerPasses)
    refuse("a step of " + std::to_string(plan.micro_batches()) + " micro-batches",
           "choose a larger --micro-batch or --dp, or a smaller --global-batch");
}

void require_possible(const Plan& plan) {
  const Infeasible broken = check(plan.model, plan.cluster, plan.workload, plan.strategy);
  if (!broken.constraint.empty()) throw Error("E0304", Exit::usage, broken.reason, broken.hint);
}

// ---- The passes of one stage

void load(Builder& b, MicroBatch& mb) {
  mb.ids = b.buffer("ids", b.shape.rows, DType::int32, Category::buffers);
  mb.targets = b.buffer("targets", b.shape.rows, DType::int32, Category::buffers);
  b.emit(Load{b.shape.rows}, {}, {b.all(mb.ids), b.all(mb.targets)});
}

BufferId receive(Builder& b, std::string_view what, int from) {
  const BufferId x = b.activation(what, b.shape.split_rows * b.shape.hidden);
  b.emit(Recv{from, b.all(x).size}, {}, {b.all(x)});
  return x;
}

void send(Builder& b, BufferId x, int to) { b.emit(Send{to, b.all(x).size}, {b.all(x)}, {}); }

void forward(Builder& b, std::int32_t micro_batch) {
  MicroBatch& mb = b.micro_batches[micro_batch];
  b.phase = Phase::forward;
  b.layer = -1;
  b.micro_batch = micro_batch;
  if (b.stage.first() || b.stage.last()) load(b, mb);

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
  if (b.stage.last()) return head_forward(b, mb, r);

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
  }
  b.layer = -1;
  if (b.stage.first())
    embedding_backward(b, mb, gradient);
  else
    send(b, gradient, b.stage.index - 1);
  mb = {};
}

Program lower_stage(const Plan& plan, Purpose purpose, const Shapes& shape, const StagePlace& stage) {
  Builder b{plan, purpose, shape, stage, {}, {}, {}};
  b.program.stage = stage.index;
  declare_parameters(b);

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

Shapes shapes_of(const Plan& plan) {
  const ModelConfig& m = plan.model;
  const Strategy& st = plan.strategy;
  Shapes s{};
  s.micro_batch = st.micro_batch;
  s.seq = sequence_length(m, plan.workload);
  s.rows = s.micro_batch * s.seq;
  s.split_rows = st.sp ? s.rows / st.tp : s.rows;
  s.hidden = m.hidden_size;
  s.heads = m.num_attention_heads / st.tp;
  s.kv_heads = m.num_key_value_heads / st.tp;
  s.head_dim = m.head_dim;
  s.ffn = m.intermediate_size / st.tp;
  s.attn = s.heads * s.head_dim;
  s.qkv = (s.heads + 2 * s.kv_heads) * s.head_dim;
  s.vocab = (m.vocab_size + st.tp - 1) / st.tp;
  s.vocab_total = m.vocab_size;
  s.tp = st.tp;
  s.dp = st.dp;
  s.sp = st.sp && st.tp > 1;
  s.dtype = plan.workload.precision;
  s.eps = m.rms_norm_eps;
  s.divisor = plan.workload.global_batch * s.seq;
  return s;
}

}  // namespace lowering

std::vector<Program> lower(const Plan& plan, Purpose purpose) {
  lowering::require_possible(plan);
  lowering::require_lowerable(plan);
  const lowering::Shapes shape = lowering::shapes_of(plan);
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
