// What the parts of `lower` share: the shapes of one rank, its parameters, and the program of one stage
// that they append to. Internal to the planner; users call lower().
#pragma once

#include <cstdint>
#include <initializer_list>
#include <string_view>
#include <vector>

#include "costmodel/block.h"
#include "planner/lower.h"
#include "planner/plan.h"
#include "planner/program.h"

namespace llmplan::lowering {

// A weight matrix [out, in] (a vector: [1, in]) in the flat buffers. Fused weights are neighbours there,
// so that q, k and v are one Weight, and gate and up.
struct Weight {
  std::int64_t begin = 0, out = 0, in = 0;
  bool written = false;     // a gradient was emitted: further ones accumulate
  std::int64_t elements() const { return out * in; }
};
struct LayerWeights { Weight norm1, qkv, o, norm2, gate_up, down; };
struct Weights {
  Weight embedding, head, final_norm;
  std::vector<LayerWeights> layers;   // of this stage
  std::int64_t norms_begin = 0, norms_end = 0;  // what tp replicates
};

// Where a stage stands.
struct StagePlace {
  int index = 0, count = 1;
  std::int64_t first_layer = 0, layers = 0;
  bool first() const { return index == 0; }
  bool last() const { return index + 1 == count; }
};

// What a layer's linears multiply: a buffer of the program's type, or in fp8 one of 8 bits, its transpose, or both,
// with the factor that gives the numbers back.
struct Operand {
  BufferId x = -1, transposed = -1, factor = -1;
};

// Activations of one layer and micro-batch that its backward reads. `xn` is what the GEMMs after a
// norm read: the norm's own output, or under sp this rank's rows of it.
struct LayerState {
  BufferId sum1 = -1, rstd1 = -1, qkv = -1, out = -1, lse = -1;
  BufferId sum2 = -1, rstd2 = -1, gate_up = -1;
  Operand xn1, xn2, act;
  Operand whole1, whole2;  // xn, under sp gathered, where it is still there
};

struct MicroBatch {
  BufferId ids = -1, targets = -1, starts = -1;
  std::vector<LayerState> layers;
  BufferId sum = -1, rstd = -1, dy = -1;  // last stage: the final norm's input, and its output's gradient
};

// The residual stream between two norms: `sum`, plus the last block's output that is not added yet.
struct Residual {
  BufferId sum = -1, delta = -1;
  bool saved = false;  // a backward needs `sum` as it is
};

// After which part of the last backward pass a bucket of Program::buckets is final: a layer of this stage (local index), or all of it.
// Layers from `layers` on are none: the head.
inline constexpr std::int64_t kEndOfPass = -1;

struct Builder {
  const Plan& plan;
  Purpose purpose;
  Shapes shape;
  StagePlace stage;
  Program program;
  Weights weights;
  std::vector<MicroBatch> micro_batches;
  std::vector<std::int64_t> final_after;  // by bucket
  BufferId loss = -1;

  // Stamped on every instruction that is emitted.
  Phase phase = Phase::forward;
  int layer = -1, micro_batch = -1;

  bool training() const { return purpose == Purpose::train; }

  BufferId buffer(std::string_view what, std::int64_t elements, DType, Category = Category::activations);
  BufferId activation(std::string_view what, std::int64_t elements) {
    return buffer(what, elements, shape.dtype);
  }
  Ref all(BufferId id) const { return {id, {}, program.buffers[id].size}; }
  Ref rows(BufferId id, std::int64_t first, std::int64_t count, std::int64_t columns) const {
    const std::int64_t row = columns * size_of(program.buffers[id].dtype);
    return {id, {first * row}, {count * row}};
  }
  Ref value(const Weight& w) const { return flat(program.weights, w.begin, w.elements()); }
  Ref gradient(const Weight& w) const { return flat(program.gradients, w.begin, w.elements()); }
  Ref flat(BufferId id, std::int64_t begin, std::int64_t elements) const {
    return rows(id, begin, elements, 1);
  }
  // An operand of no buffer (-1) is left out: op.h says when an op has it.
  void emit(const Op&, std::initializer_list<Ref> reads, std::initializer_list<Ref> writes);
  Ref all_if(bool present, BufferId id) const { return present ? all(id) : Ref{}; }
};

// ---- params.cpp
void declare_parameters(Builder&);  // program.params, weights and the persistent buffers

// ---- lower_parts.cpp: what several blocks are made of
void linear(Builder&, Ref x, const Weight&, Ref y, std::int64_t rows);     // y = x·Wᵀ
void linear_dx(Builder&, Ref dy, const Weight&, Ref dx, std::int64_t rows);
void linear_dw(Builder&, Ref dy, Ref x, Weight&, std::int64_t rows);       // dW (+)= dyᵀ·x
// The same three of a layer: of all tokens of a micro-batch, and in fp8 where the plan says so.
void layer_linear(Builder&, const Operand& x, const Weight&, BufferId y);
void layer_linear_dx(Builder&, const Operand& dy, const Weight&, BufferId dx);
void layer_linear_dw(Builder&, const Operand& dy, const Operand& x, Weight&);
enum class Layout8 : std::uint8_t { straight, transposed, both };
// x[rows, columns] for a layer's linears: x itself, or in fp8 quantised to `to`.
Operand operand(Builder&, BufferId x, std::int64_t columns, DType to, Layout8);
// Buffers for a result that its op quantises itself; without fp8 just x.
Operand quantized_result(Builder&, std::string_view what, std::int64_t rows, std::int64_t columns, DType to);
struct Normed { Operand y; BufferId rstd; };
Normed norm(Builder&, Residual&, const Weight&, bool for_layer = true);
// dx of a norm whose input was `sum`; with `residual`, added into that buffer, in place.
BufferId norm_grad(Builder&, BufferId sum, BufferId rstd, Weight&, BufferId dy, BufferId residual = -1);
BufferId gather_rows(Builder&, BufferId x);        // sp: all ranks' rows; else x itself
// Sums the partial results of the tp ranks; under sp each keeps its own rows.
BufferId reduce_partial(Builder&, BufferId x);
void reduce(Builder&, Axis, Ref x, DType);         // all_reduce in place

// ---- lower_layer.cpp
LayerState layer_forward(Builder&, LayerWeights&, Residual&);
void layer_recompute(Builder&, LayerWeights&, LayerState&);
void layer_backward(Builder&, LayerWeights&, LayerState&, BufferId gradient);

// ---- lower_head.cpp
void embedding_forward(Builder&, MicroBatch&, Residual&);
void embedding_backward(Builder&, MicroBatch&, BufferId gradient);
void head_forward(Builder&, MicroBatch&, Residual&);  // with its own backward, chunk by chunk
BufferId head_backward(Builder&, MicroBatch&);        // through the final norm

// ---- lower_optimizer.cpp
void gather_weights(Builder&);  // under ZeRO each rank has updated its slices only
// Reduces the bucket that is final after this part of the last backward pass, if there is one.
void reduce_final(Builder&, std::int64_t layer);
void optimizer_phase(Builder&);

}  // namespace llmplan::lowering
