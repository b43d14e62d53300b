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

// States: what stays on the device from step to step.
static void states(const RuntimeCase& c, const StageWeights& w, Memory& m) {
  const Strategy& st = c.strategy;
  const Runtime& r = c.runtime;
  const auto sharded = [&](double per_parameter, int from) {
    if (st.zero < from) return per_parameter * w.all();
    return per_parameter * (w.dense / c.shards + w.experts / c.expert_shards());
  };
  const bool whole_fp32 = c.dims.element == 4;
  // FSDP's own parameter is the fp32 master: sharded, and cast when it is gathered.
  const bool fsdp = r.fp32_parameters && st.zero >= 2 && c.shards > 1 && !st.offload.optimizer;
  if (!st.offload.weights) m.weights = rounded(fsdp ? sharded(4, 2) : sharded(c.dims.element, 3));
  if (st.zero_groups.secondary > 0 && st.zero >= 3)  // ZeRO++'s second copy, in the precision of computing
    m.weights += rounded(c.dims.element * w.all() / d(st.zero_groups.secondary));
  if (!st.offload.gradients)
    m.gradients = rounded(sharded(whole_fp32 ? 4 : r.gradient_bytes, 2) + (whole_fp32 ? 0 : r.micro_gradient_bytes * w.all()));
  const bool master = r.master_weights && c.workload.optimizer.kind != OptimizerKind::adamw_lean && !whole_fp32 && !fsdp;
  if (!st.offload.optimizer)
    m.optimizer = rounded(sharded(state_bytes(c.workload.optimizer.kind) + (master ? 4 : 0), 1));
}

// Bytes that ZeRO-3 has gathered while a layer computes.
static double gathered(const RuntimeCase& c, const Stage& s, const StageWeights& w) {
  const Strategy& st = c.strategy;
  const Runtime& r = c.runtime;
  const double e = c.dims.element;
  if (c.shards <= 1 || st.zero < 2) return 0;
  // FSDP told not to reshard after forward (its ZeRO-2): all weights of the pass. A pipeline of it gathers once
  // per step, and adds up whole gradients in fp32 until the last micro-batch.
  if (r.fp32_parameters && st.zero == 2) return e * w.all();
  if (st.zero < 3) return 0;
  if (r.fp32_parameters && st.pp > 1) return (e + 4) * w.all();
  const double layer = std::max(s.dense > 0 ? c.dense_layer.dense : 0.0, s.moe > 0 ? c.moe_layer.dense + c.moe_layer.experts : 0.0);
  return e * (r.zero3_layers * layer + ((s.first ? 1 : 0) + (s.last ? 1 : 0)) * c.table);
}

Memory stage_memory(const RuntimeCase& c, int64_t i) {
  const Stage& s = c.stages[static_cast<std::size_t>(i)];
  const Strategy& st = c.strategy;
  const Runtime& r = c.runtime;
  const Dims& x = c.dims;
  const StageWeights w = c.weights(s);
  const double e = x.element;
  Memory m;
  m.peak_stage = static_cast<int>(i);
  m.capacity = c.cluster.device.memory;
  states(c, w, m);

  // Activations: what every micro-batch in flight keeps.
  const double share = c.recomputed_share(s);
  const auto kept = [&](bool moe) {
    const double whole = kept_bytes(c.model, x, r, Recompute::none, moe);
    if (share == 0) return whole;
    return (1 - share) * whole + share * kept_bytes(c.model, x, r, st.recompute, moe);
  };
  double saved = 0;
  if (s.dense > 0) saved += d(s.dense) * kept(false);
  if (s.moe > 0) saved += d(s.moe) * kept(true);
  double activations = flying(c, i) * saved;
  if (st.offload.activations) activations = std::min(activations, saved / std::max(1.0, d(s.layers())) * 2);

  // Buffers that are there at every moment.
  const double stream = x.split_rows * x.hidden * e;
  double buffers = s.last ? 2 * stream : 0;  // the final norm's input and output
  buffers += static_cast<double>(r.bucket.value) * (x.dp > 1 ? 1 : 0);
  buffers += gathered(c, s, w);
  if (r.gradient_placeholders && r.gradient_bytes >= 4) {
    double shapes = s.last ? c.table : 0;
    shapes += s.moe > 0 ? c.moe_layer.dense + c.moe_layer.experts / std::max(1.0, x.local_experts) : c.dense_layer.dense;
    buffers += e * shapes;
  }

  // At the loss: logits, and where linears keep their gathered input, the head's, its gradient and the product that
  // is scattered.
  double head = s.last ? x.rows * x.vocab * (r.whole_logits ? x.tp : 1) * r.logits_bytes : 0;
  if (s.last && x.sp && r.gathered_inputs) head += 3 * x.rows * x.hidden * e;
  // In the fullest layer's backward pass: the gradient that travels up and its copy, the MLP's, the scores', and
  // all of a layer that is recomputed.
  double in_layer = 2 * stream;
  in_layer += e * (s.moe > 0 ? x.expert_rows * x.expert_ffn : x.rows * x.ffn) * (x.gated ? 2 : 1);
  if (x.unfused) in_layer += 2 * e * x.micro_batch * x.heads * x.seq * x.full_seq;
  if (share > 0) in_layer += std::max(0.0, kept_bytes(c.model, x, r, Recompute::none, s.moe > 0) - kept(s.moe > 0));
  // In the optimizer step: what it makes for the parameters that this rank updates, activations being gone.
  const double updated = st.zero >= 1 ? w.dense / c.shards + w.experts / c.expert_shards() : w.all();
  const double step = st.offload.optimizer ? 0 : r.step_bytes * updated;
  // FSDP has no gradients between steps: with one micro-batch they come as the activations go.
  const bool fresh = r.fp32_parameters && st.zero >= 2 && c.shards > 1 && st.pp == 1 && c.micro_batches == 1;
  const double gradients = static_cast<double>(m.gradients.value), late = fresh ? gradients : 0;
  const double first_layer = activations / std::max(1.0, d(s.layers()));

  const struct { std::string_view name; double gradients, activations, logits, buffers; } moments[] = {
      {"in the backward pass of its fullest layer", gradients - late, activations, 0, in_layer},
      {"at the loss", gradients - late, activations, head, 0},
      {"at the end of the backward pass", gradients, fresh ? first_layer : 0, 0, fresh ? in_layer : 0},
      {"in the optimizer step", gradients, 0, 0, step}};
  const auto total = [](const auto& t) { return t.gradients + t.activations + t.logits + t.buffers; };
  const auto* peak = &moments[0];
  for (const auto& t : moments)
    if (total(t) > total(*peak)) peak = &t;
  m.moment = peak->name;
  m.gradients = rounded(peak->gradients);
  m.activations = rounded(peak->activations);
  m.logits = rounded(peak->logits);
  m.buffers = rounded(buffers + peak->buffers);
  const Bytes alive = m.weights + m.gradients + m.optimizer + m.activations + m.logits + m.buffers;
  m.reserve = c.cluster.device.reserve + r.reserve;
  m.peak = alive + m.reserve;
  // A caching allocator ends up with room for all of these moments, since blocks of gradients seldom serve anything else.
  const double loss = s.last ? x.rows * x.vocab * r.logits_cached : 0;
  double passing = 0;
  for (const auto& t : moments) passing = std::max(passing, total(t) - t.gradients);
  m.cached = rounded(static_cast<double>(alive.value) * r.fragmentation + loss + gradients + passing - total(*peak));
  return m;
}

}  // namespace llmplan
