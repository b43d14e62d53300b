// What a stage's ranks hold at the moment of the peak, by component.
#include "costmodel/pipeline.h"
#include "costmodel/runtime_case.h"

namespace llmplan {
namespace {

using std::int64_t;

double d(int64_t n) { return static_cast<double>(n); }

// Micro-batches whose activations stage `i` holds at once; a fraction where chunks interleave.
double flying(const RuntimeCase& c, int64_t i) {
  const double m = d(c.micro_batches), pp = d(c.strategy.pp), v = d(c.strategy.vpp);
  if (c.strategy.vpp > 1)  // Megatron's warm-up, in chunks: 2(p−i−1) + (v−1)p, and the one in progress
    return std::min(m, (2 * (pp - d(i) - 1) + (v - 1) * pp + 1) / v);
  return d(in_flight(c.strategy.schedule, i, c.strategy.pp, c.micro_batches));
}

}  // namespace

Memory stage_memory(const RuntimeCase& c, int64_t i) {
  const Stage& s = c.stages[static_cast<std::size_t>(i)];
  const Strategy& st = c.strategy;
  const Runtime& r = c.runtime;
  const StageWeights w = c.weights(s);
  const double e = c.dims.element;
  const auto sharded = [&](double per_parameter, int from) {
    if (st.zero < from) return per_parameter * w.all();
    return per_parameter * (w.dense / c.shards + w.experts / c.expert_shards());
  };
  const bool whole_fp32 = e == 4;
  Memory m;
  m.peak_stage = static_cast<int>(i);
  m.capacity = c.cluster.device.memory;
  const bool fp32_parameters = r.fp32_parameters && st.zero >= 3 && c.shards > 1 && !st.offload.optimizer;
  if (!st.offload.weights) m.weights = rounded(sharded(fp32_parameters ? 4 : e, 3));
  if (st.zero_groups.secondary > 0 && st.zero >= 3)  // ZeRO++'s second copy, in the precision of computing
    m.weights += rounded(c.dims.element * w.all() / d(st.zero_groups.secondary));
  if (!st.offload.gradients) m.gradients = rounded(sharded(whole_fp32 ? 4 : r.gradient_bytes, 2));
  const double master = r.master_weights && c.workload.optimizer.kind != OptimizerKind::adamw_lean && !whole_fp32 && !fp32_parameters ? 4 : 0;
  if (!st.offload.optimizer) m.optimizer = rounded(sharded(state_bytes(c.workload.optimizer.kind) + master, 1));

  // Activations: what every micro-batch in flight keeps, and what the fullest layer needs on top.
  const double share = c.recomputed_share(s);
  const auto kept = [&](bool moe) {
    const double whole = kept_bytes(c.model, c.dims, r, Recompute::none, moe);
    if (share == 0) return whole;
    return (1 - share) * whole + share * kept_bytes(c.model, c.dims, r, st.recompute, moe);
  };
  double saved = 0;
  if (s.dense > 0) saved += d(s.dense) * kept(false);
  if (s.moe > 0) saved += d(s.moe) * kept(true);
  const double stream = c.dims.split_rows * c.dims.hidden * e;
  double in_layer = 2 * stream;  // the gradient that travels up, and its copy
  in_layer += e * (s.moe > 0 ? c.dims.expert_rows * c.dims.expert_ffn : c.dims.rows * c.dims.ffn) * (c.dims.gated ? 2 : 1);
  if (share > 0) in_layer += std::max(0.0, kept_bytes(c.model, c.dims, r, Recompute::none, s.moe > 0) - kept(s.moe > 0));
  double activations = flying(c, i) * saved;
  if (st.offload.activations) activations = std::min(activations, saved / std::max(1.0, d(s.layers())) * 2);
  const double logits = s.last ? c.dims.rows * c.dims.vocab * (r.whole_logits ? c.dims.tp : 1) * r.logits_bytes : 0;
  m.activations = rounded(activations);
  // The peak is at the loss or in the fullest layer's backward, whichever needs more.
  double buffers = s.last ? 2 * stream : 0;  // the final norm's input and output
  if (logits > in_layer)
    m.logits = rounded(logits);
  else
    buffers += in_layer;
  buffers += static_cast<double>(r.bucket.value) * (c.dims.dp > 1 ? 1 : 0);
  if (st.zero >= 3 && c.shards > 1) {
    const double layer = std::max(c.has_dense ? c.dense_layer.dense : 0.0, c.has_moe ? c.moe_layer.dense + c.moe_layer.experts : 0.0);
    buffers += e * (r.zero3_layers * layer + (s.first || s.last ? c.table : 0));
  }
  if (r.gradient_placeholders && r.gradient_bytes >= 4) {
    double shapes = s.last ? c.table : 0;
    shapes += s.moe > 0 ? c.moe_layer.dense + c.moe_layer.experts / std::max(1.0, c.dims.local_experts) : c.dense_layer.dense;
    buffers += e * shapes;
  }
  m.buffers = rounded(buffers);
  const double alive = static_cast<double>((m.weights + m.gradients + m.optimizer + m.activations + m.logits + m.buffers).value);
  m.reserve = c.cluster.device.reserve + r.reserve + rounded(alive * r.fragmentation);
  m.peak = m.weights + m.gradients + m.optimizer + m.activations + m.logits + m.buffers + m.reserve;
  return m;
}

}  // namespace llmplan
