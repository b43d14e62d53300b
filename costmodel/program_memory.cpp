#include "costmodel/program_memory.h"

#include <algorithm>

#include "costmodel/pipeline.h"

namespace llmplan {

using std::int64_t;

int64_t layer_input(const Shapes& s) { return s.split_rows * s.hidden * size_of(s.dtype); }

// Two norms keep their input, output and 1/rms; attention its packed q, k, v, its output and the softmax's
// log-sum; the MLP its gate and up projections and their product.
// In fp8 three of these are kept quantised and transposed, as the weights' gradients need them: one byte, and a factor;
// under sp the norms' outputs stay a rank's own rows.
int64_t normed_per_layer(const Shapes& s) {
  return s.fp8 && !s.sp ? 2 * (s.rows * s.hidden + (1 + s.rows) * 4) : 2 * layer_input(s);
}
int64_t saved_per_layer(const Shapes& s) {
  const int64_t e = size_of(s.dtype);
  if (s.fp8)
    return 2 * layer_input(s) + normed_per_layer(s) + 2 * s.split_rows * 4 + s.rows * (s.qkv + s.attn + 2 * s.ffn) * e +
           s.rows * s.ffn + s.rows * s.heads * 4 + (1 + s.rows) * 4;
  return 2 * layer_input(s) + normed_per_layer(s) + 2 * s.split_rows * 4 + s.rows * (s.qkv + s.attn + 3 * s.ffn) * e + s.rows * s.heads * 4;
}

// In fp8, what the first of a layer's backward linears have beside what was saved: the down projection's operands
// and result, or SwiGLU's gradient, which cannot replace its operand, or the gate and up projections.
int64_t quantized_work(const Shapes& s) {
  if (!s.fp8) return 0;
  const int64_t ffn = s.rows * s.ffn, stream = s.rows * s.hidden;
  return std::max({2 * stream + 2 * ffn + s.hidden * s.ffn, 2 * ffn + 4 * ffn - ffn,
                   2 * stream + 2 * s.hidden * s.ffn - ffn});
}

Memory program_memory(const Shapes& s, const StagePlace& p, const Strategy& st, const Device& device,
                      int64_t micro_batches) {
  const int64_t e = size_of(s.dtype), stream = layer_input(s), whole = s.rows * s.hidden * e;
  const int64_t elements = block::buckets_of(s, p).elements();
  Memory m;
  m.weights = {elements * e};
  m.gradients = {elements * 4};
  m.optimizer = {elements / s.shards * s.state_bytes()};
  m.reserve = device.reserve;
  m.capacity = device.memory;
  m.peak_stage = static_cast<int>(p.index);

  const int64_t flying = in_flight(st.schedule, p.index, p.count, micro_batches);
  const int64_t recomputed = st.recompute != Recompute::full ? 0
                             : st.recompute_layers == 0      ? p.layers
                                                             : std::min(st.recompute_layers, p.layers);
  const int64_t layer = saved_per_layer(s);
  const int64_t saved = (p.layers - recomputed) * layer + recomputed * stream;
  const int64_t ids = s.documents ? s.rows * 12 : (p.first() || p.last()) ? s.rows * 8 : 0;
  const int64_t final_norm = p.last() ? 2 * stream + s.split_rows * 4 : 0;  // its input, rstd, dy
  m.buffers = {s.seq * s.head_dim * 4 + 3 * 8 + (s.scaled() ? kLossScaling * 8 : 0) + flying * ids + (p.last() ? 2 * 8 : 0)};

  // Moment 1: the oldest micro-batch's last layer starts its backward: its gradient (whole under sp), and the
  // MLP's dact in the place of act; a recomputed layer is there as a whole, gathered inputs included.
  const int64_t gathered = !s.sp ? 0 : s.fp8 ? 2 * (s.rows * s.hidden + (1 + s.rows) * 4) : 2 * whole;
  const int64_t last_recomputed = recomputed == p.layers ? layer - stream + gathered : 0;
  const int64_t gradient = stream + (s.sp ? whole : 0) + quantized_work(s);
  const int64_t backward = flying * saved + (flying - 1) * final_norm + last_recomputed + gradient;
  // Moment 1b, where only some layers are recomputed: the first of them, once the layers behind it are done.
  const int64_t partly = recomputed > 0 && recomputed < p.layers
                             ? (flying - 1) * (saved + final_norm) + recomputed * stream + layer - stream +
                                   gathered + gradient
                             : 0;
  // Moment 2: the newest micro-batch's head: the normed rows, whole, and one chunk of logits.
  const int64_t chunk = p.last() ? s.head_rows * (s.vocab * e + (s.tp > 1 ? s.tp + 1 : 1) * 3 * 4) : 0;
  const int64_t head = p.last() ? flying * saved + (flying - 1) * final_norm + stream + s.split_rows * 4 + whole : 0;

  const bool at_head = head + chunk > std::max(backward, partly);
  m.logits = {at_head ? chunk : 0};
  m.activations = {at_head ? head : std::max(backward, partly)};
  m.moment = at_head ? "at the loss" : "in the backward pass of its fullest layer";
  m.peak = m.weights + m.gradients + m.optimizer + m.activations + m.logits + m.buffers + m.reserve;
  return m;
}

}  // namespace llmplan
