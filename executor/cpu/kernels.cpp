#include "executor/cpu/kernels.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <stdexcept>
#include <string>
#include <variant>

#include "executor/cpu/convert.h"
#include "executor/cpu/isa/table.h"
#include "executor/cpu/lean_adamw.h"
#include "executor/cpu/products.h"
#include "executor/cpu/quantize.h"
#include "executor/cpu/scratch.h"
#include "executor/cpu/stored_types.h"
#include "executor/loss_scale.h"
#include "executor/shard.h"

namespace llmplan::cpu {
namespace {

using i64 = std::int64_t;

constexpr i64 ceil_div(i64 a, i64 b) { return (a + b - 1) / b; }

// Operands by position, as op.h lists them.
struct Operands {
  std::span<const std::byte* const> reads;
  std::span<std::byte* const> writes;
  template <class T = float> const T* in(std::size_t i) const {
    if (i >= reads.size()) throw std::logic_error("cpu::run: an operand to read is missing");
    return reinterpret_cast<const T*>(reads[i]);
  }
  template <class T = float> T* out(std::size_t i) const {
    if (i >= writes.size()) throw std::logic_error("cpu::run: an operand to write is missing");
    return reinterpret_cast<T*>(writes[i]);
  }
};

// body(begin, end) over [0, count), a tile for every `bytes` of work; one tile if that is little.
constexpr i64 kTileBytes = 256 << 10;  // about 20 µs of memory traffic: well above the cost of a tile
template <class Body>
void for_ranges(ThreadPool& pool, i64 count, i64 bytes_each, i64 multiple, Body body) {
  if (count <= 0) return;
  const i64 per_tile = std::max<i64>(1, kTileBytes / std::max<i64>(1, bytes_each) / multiple) * multiple;
  pool.parallel_for(ceil_div(count, per_tile),
                    [&](i64 t) { body(t * per_tile, std::min(count, (t + 1) * per_tile)); });
}

// Rows of a partial sum of the loss.
i64 loss_block(const CrossEntropyGrad& op) { return std::min<i64>(64, kTileBytes / (op.vocab * 8) + 1); }
// Elements of a partial sum of squares, and of AdamW's tiles.
constexpr i64 kFlatBlock = 16384;

// The fp32 kernels: stored_types.h sees to other types.
struct Run {
  const Operands x;
  const KernelContext& context;
  const KernelTable& k = kernels();
  ThreadPool& pool = *context.pool;

  void operator()(const Load&) const { not_mine(); }
  void operator()(const Collective&) const { not_mine(); }
  void operator()(const Send&) const { not_mine(); }
  void operator()(const Recv&) const { not_mine(); }
  [[noreturn]] static void not_mine() { throw std::logic_error("cpu::run: loads and transfers are the backend's"); }

  void operator()(const Gemm& op) const {
    gemm(k, op, x.in(0), x.in(1), x.out(0), pool);
  }
  void operator()(const Quantize& op) const {
    quantize(op.to, op.rows, op.columns, x.in(0), op.straight ? x.out<std::byte>(0) : nullptr,
             op.transposed ? x.out<std::byte>(x.writes.size() - 2) : nullptr, x.out(x.writes.size() - 1), pool);
  }
  void operator()(const Embedding& op) const {
    const auto *ids = x.in<std::int32_t>(0);
    const float* table = x.in(1);
    float* to = x.out(0);
    Embedding words = op;
    words.hidden = op.hidden * size_of(op.dtype) / 4;
    for_ranges(pool, op.rows, words.hidden * 8, 1,
               [&](i64 b, i64 e) { k.embedding(words, context.where.tp * op.vocab, ids, table, to, b, e); });
  }
  void operator()(const EmbeddingGrad& op) const {
    const auto *ids = x.in<std::int32_t>(0);
    const float* dx = x.in(1);
    float* dtable = x.out(0);
    // Columns, so that every sum runs in row order. At least two cache lines wide.
    const i64 bytes = (op.rows + (op.accumulate ? op.rows : op.vocab)) * 4;
    for_ranges(pool, op.hidden, bytes, 32,
               [&](i64 b, i64 e) { k.embedding_grad(op, context.where.tp * op.vocab, ids, dx, dtable, b, e); });
  }
  void operator()(const RmsNorm& op) const {
    const float *from = x.in(0), *weight = x.in(1), *delta = op.residual ? x.in(2) : nullptr;
    float *y = x.out(0), *rstd = x.out(1), *sum = op.residual ? x.out(2) : nullptr;
    for_ranges(pool, op.rows, op.hidden * (op.residual ? 16 : 8), 1,
               [&](i64 b, i64 e) { k.rms_norm(op, from, weight, delta, y, rstd, sum, b, e); });
  }
  void operator()(const RmsNormGrad& op) const {
    const float *from = x.in(0), *rstd = x.in(1), *weight = x.in(2), *dy = x.in(3);
    const float* dresidual = op.residual ? x.in(4) : nullptr;
    float *dx = x.out(0), *dweight = x.out(1), *partial = x.out(2);
    const i64 blocks = norm_grad_blocks(op.rows);
    const i64 rows = blocks > 0 ? ceil_div(op.rows, blocks) : 0;
    const auto block = [&](i64 i) {
      k.rms_norm_grad(op, from, rstd, weight, dy, dresidual, dx, partial + i * op.hidden,
                      std::min(op.rows, i * rows), std::min(op.rows, (i + 1) * rows));
    };
    if (op.rows * op.hidden * 16 <= kTileBytes)
      for (i64 i = 0; i < blocks; ++i) block(i);
    else
      pool.parallel_for(blocks, block);
    for_ranges(pool, op.hidden, blocks * 4, 64,
               [&](i64 b, i64 e) { k.sum_rows(partial, blocks, op.hidden, dweight, op.accumulate, b, e); });
  }
  void operator()(const Rope& op) const {
    const float* table = x.in(0);
    const auto* starts = op.documents ? x.in<std::int32_t>(1) : nullptr;
    float* qkv = x.out(0);
    for_ranges(pool, op.rows, (op.heads + op.kv_heads) * op.head_dim * 8, 1,
               [&](i64 b, i64 e) { k.rope(op, table, starts, qkv, b, e); });
  }
  void operator()(const Attention& op) const {
    attention(k, op, x.in(0), op.documents ? x.in<std::int32_t>(1) : nullptr, x.out(0), x.out(1), pool);
  }
  void operator()(const AttentionGrad& op) const {
    attention_grad(k, op, x.in(0), op.documents ? x.in<std::int32_t>(4) : nullptr, x.in(1), x.in(2), x.in(3), x.out(0), x.out(1), pool);
  }
  void operator()(const SwiGlu& op) const {
    const float* gate_up = x.in(0);
    float* to = x.out(0);
    for_ranges(pool, op.rows, op.ffn * 12, 1, [&](i64 b, i64 e) { k.swiglu(op, gate_up, to, b, e); });
  }
  void operator()(const SwiGluGrad& op) const {
    const float *gate_up = x.in(0), *dout = x.in(1);
    float* to = x.out(0);
    for_ranges(pool, op.rows, op.ffn * 20, 1, [&](i64 b, i64 e) { k.swiglu_grad(op, gate_up, dout, to, b, e); });
  }
  void operator()(const Add& op) const {
    const float *a = x.in(0), *b = x.in(1);
    float* to = x.out(0);
    for_ranges(pool, op.elements, 12, 1024, [&](i64 i, i64 e) { k.add(a + i, b + i, to + i, e - i); });
  }
  i64 valid_columns(i64 vocab, i64 vocab_total) const {
    return std::clamp<i64>(vocab_total - context.where.tp * vocab, 0, vocab);
  }
  void operator()(const CrossEntropyStats& op) const {
    const float* logits = x.in(0);
    const auto* targets = x.in<std::int32_t>(1);
    float* stats = x.out(0);
    const i64 first = context.where.tp * op.vocab, valid = valid_columns(op.vocab, op.vocab_total);
    for_ranges(pool, op.rows, op.vocab * 8, 1,
               [&](i64 b, i64 e) { k.cross_entropy_stats(op, first, valid, logits, targets, stats, b, e); });
  }
  void operator()(const CrossEntropyGrad& op) const {
    const auto* targets = x.in<std::int32_t>(0);
    const float* stats = x.in(1);
    float* logits = op.gradient ? x.out(0) : nullptr;
    double* loss = reinterpret_cast<double*>(x.writes.back());
    const double loss_scale = op.scaled ? x.in<LossScaling>(2)->scale : 1;
    const i64 first = context.where.tp * op.vocab, valid = valid_columns(op.vocab, op.vocab_total);
    // Blocks of rows that depend on the shape only, their sums added in order.
    const i64 rows = loss_block(op), blocks = ceil_div(op.rows, rows);
    double* partial = reinterpret_cast<double*>(scratch(ScratchUse::shared, 4 * blocks));
    const auto block = [&](i64 i) {
      partial[2 * i] = partial[2 * i + 1] = 0;
      k.cross_entropy_grad(op, loss_scale, first, valid, targets, stats, logits, partial + 2 * i, i * rows, std::min(op.rows, (i + 1) * rows));
    };
    if (op.rows * op.vocab * 8 <= kTileBytes)
      for (i64 i = 0; i < blocks; ++i) block(i);
    else
      pool.parallel_for(blocks, block);
    double sum[2] = {0, 0};
    for (i64 i = 0; i < blocks; ++i) sum[0] += partial[2 * i], sum[1] += partial[2 * i + 1];
    for (int i = 0; i < 2; ++i) loss[i] = op.accumulate ? loss[i] + sum[i] : sum[i];
  }

  // The parts of this rank's `elements` that hold parameters, block by block: body(param, first, last) with
  // indices into the whole flat buffer. Blocks are of the rank's elements and do not depend on threads.
  template <class Body>
  void for_params(i64 begin, i64 end, Body body) const {
    const std::vector<Param>& params = *context.params;
    auto p = std::partition_point(params.begin(), params.end(), [&](const Param& q) { return q.begin + q.elements() <= begin; });
    for (; p != params.end() && p->begin < end; ++p)
      body(*p, std::max(begin, p->begin), std::min(end, p->begin + p->elements()));
  }
  // Of the flat order, of this rank's slice of a bucket.
  i64 first_element(i64 elements, i64 shards) const {
    return context.flat_begin + (shards > 1 ? context.where.dp * elements : 0);
  }

  void operator()(const GradStats& op) const {
    const float* gradients = x.in(0);
    double* stats = x.out<double>(0);
    const i64 first = first_element(op.elements, op.shards), blocks = ceil_div(op.elements, kFlatBlock);
    double* partial = reinterpret_cast<double*>(scratch(ScratchUse::shared, 2 * blocks));
    const Coordinates& where = context.where;
    const bool copy = op.shards == 1 && where.dp > 0;  // another dp rank counts these gradients
    pool.parallel_for(blocks, [&](i64 i) {
      partial[i] = 0;
      if (copy) return;
      for_params(first + i * kFlatBlock, first + std::min(op.elements, (i + 1) * kFlatBlock), [&](const Param& p, i64 b, i64 e) {
        if (p.counted && (p.tp_dim >= 0 || where.tp == 0))
          partial[i] += k.sum_squares(gradients + (b - context.flat_begin), e - b);
      });
    });
    double sum = 0;
    for (i64 i = 0; i < blocks; ++i) sum += partial[i];
    if (op.accumulate) {
      stats[0] += sum;
      return;
    }
    const double* loss = x.reads.size() > 1 && where.tp == 0 ? x.in<double>(1) : nullptr;
    stats[0] = sum, stats[1] = loss ? loss[0] : 0, stats[2] = loss ? loss[1] : 0;
  }

  void operator()(const LossScale& op) const {
    decide_loss_scale(op.window, context.optimizer->beta1, context.optimizer->beta2, x.out<double>(0), *x.out<LossScaling>(1));
  }

  void operator()(const AdamW& op) const {
    const float* gradients = x.in(0);
    const double* stats = x.in<double>(1);
    const LossScaling scaling = op.scaled ? *x.in<LossScaling>(2) : LossScaling{};
    if (scaling.apply == 0) return;
    // What is updated: the weights themselves, or their fp32 master, of which they are a rounded copy.
    std::byte* const rounded = op.weights == DType::fp32 ? nullptr : x.out<std::byte>(0);
    const Optimizer& o = *context.optimizer;
    const double t = op.scaled ? scaling.taken : static_cast<double>(context.step.step), lr = context.step.learning_rate;
    const double correction = stats[2] > 0 ? static_cast<double>(op.divisor) / stats[2] : 1.0;
    const double norm = std::sqrt(stats[0]) * correction;
    const double clip = o.clip > 0 ? std::min(1.0, o.clip / (norm + 1e-6)) : 1.0;
    AdamWScalars s{};
    s.gradient_scale = static_cast<float>(correction * clip * scaling.inverse);
    s.beta1 = static_cast<float>(o.beta1), s.beta2 = static_cast<float>(o.beta2), s.eps = static_cast<float>(o.eps);
    s.step = static_cast<float>(lr / (1 - std::pow(o.beta1, t)));
    s.rsqrt_correction = static_cast<float>(1 / std::sqrt(1 - std::pow(o.beta2, t)));
    const float decayed = static_cast<float>(1 - lr * o.weight_decay);
    const i64 first = first_element(op.elements, op.shards);
    pool.parallel_for(ceil_div(op.elements, kFlatBlock), [&](i64 i) {
      for_params(first + i * kFlatBlock, first + std::min(op.elements, (i + 1) * kFlatBlock), [&](const Param& p, i64 b, i64 e) {
        AdamWScalars here = s;
        here.keep = p.decay ? decayed : 1.0f;
        const i64 in_bucket = b - context.flat_begin, own = b - first;
        const float* const g = gradients + in_bucket;
        if (op.stochastic) {
          auto *w = x.out<std::uint16_t>(0) + in_bucket, *m = x.out<std::uint16_t>(1) + own, *v = x.out<std::uint16_t>(2) + own;
          const LeanNoise bits{noise_place(p, context.where.tp), b - p.begin, context.step.step, op.seed};
          return lean_adamw(k, here, bits, g, w, m, v, e - b);
        }
        float *m = x.out(1) + own, *v = x.out(2) + own;
        float* const weights = rounded ? x.out(3) + own : x.out(0) + in_bucket;
        k.adamw(here, g, weights, m, v, e - b);
        if (rounded) narrow(op.weights, weights, rounded + in_bucket * size_of(op.weights), e - b);
      });
    });
  }
};

struct ScratchOf {
  const KernelTable& k = kernels();
  ScratchFloats operator()(const Gemm& op) const { return gemm_scratch(k, op); }
  ScratchFloats operator()(const Attention& op) const { return {0, k.attention_scratch(op.seq, op.head_dim)}; }
  ScratchFloats operator()(const AttentionGrad& op) const { return {0, k.attention_grad_scratch(op.seq, op.head_dim)}; }
  ScratchFloats operator()(const CrossEntropyGrad& op) const { return {4 * ceil_div(op.rows, loss_block(op)), 0}; }
  ScratchFloats operator()(const GradStats& op) const { return {2 * ceil_div(op.elements, kFlatBlock), 0}; }
  ScratchFloats operator()(const Quantize&) const { return {}; }
  ScratchFloats operator()(const Load&) const { return {}; }
  ScratchFloats operator()(const Embedding&) const { return {}; }
  ScratchFloats operator()(const EmbeddingGrad&) const { return {}; }
  ScratchFloats operator()(const RmsNorm&) const { return {}; }
  ScratchFloats operator()(const RmsNormGrad&) const { return {}; }
  ScratchFloats operator()(const Rope&) const { return {}; }
  ScratchFloats operator()(const SwiGlu&) const { return {}; }
  ScratchFloats operator()(const SwiGluGrad&) const { return {}; }
  ScratchFloats operator()(const Add&) const { return {}; }
  ScratchFloats operator()(const CrossEntropyStats&) const { return {}; }
  ScratchFloats operator()(const LossScale&) const { return {}; }
  ScratchFloats operator()(const AdamW& op) const { return {0, op.stochastic ? 3 * kLeanBlock : 0}; }
  ScratchFloats operator()(const Collective&) const { return {}; }
  ScratchFloats operator()(const Send&) const { return {}; }
  ScratchFloats operator()(const Recv&) const { return {}; }
};

// Runs the fp32 kernel on widened copies. A result that may replace an operand does so in its copy, too.
void run_widened(const StoredTypes& types, std::span<const std::byte* const> reads, std::span<std::byte* const> writes,
                 const KernelContext& context) {
  std::vector<const std::byte*> wide_reads(reads.begin(), reads.end());
  std::vector<std::byte*> wide_writes(writes.begin(), writes.end());
  float* free = scratch(ScratchUse::widened, types.floats());
  const auto take = [&](i64 elements) {
    float* taken = free;
    free += ceil_div(elements, 16) * 16;
    return taken;
  };
  const auto fill = [&](const StoredOperand& o, const std::byte* from, float* to) {
    const float factor = o.factor < 0 ? 1.0f : *reinterpret_cast<const float*>(reads[static_cast<std::size_t>(o.factor)]);
    for_ranges(*context.pool, o.elements, 4 + size_of(o.type), 1024, [&](i64 b, i64 e) {
      widen(o.type, from + b * size_of(o.type), to + b, e - b);
      if (o.factor >= 0)
        for (i64 i = b; i < e; ++i) to[i] *= factor;  // a power of two: exact
    });
  };
  for (const StoredOperand& o : types.reads) {
    float* copy = take(o.elements);
    fill(o, reads[o.index], copy);
    wide_reads[o.index] = reinterpret_cast<const std::byte*>(copy);
  }
  for (const StoredOperand& o : types.writes) {
    float* copy = nullptr;
    for (const StoredOperand& r : types.reads)
      if (reads[r.index] == writes[o.index] && r.elements == o.elements)
        copy = const_cast<float*>(reinterpret_cast<const float*>(wide_reads[r.index]));
    if (!copy) {
      copy = take(o.elements);
      if (o.updated) fill(o, writes[o.index], copy);
    }
    wide_writes[o.index] = reinterpret_cast<std::byte*>(copy);
  }
  std::visit(Run{{wide_reads, wide_writes}, context}, types.wide);
  for (const StoredOperand& o : types.writes) {
    if (types.quantized && o.index == 0) continue;
    const auto* copy = reinterpret_cast<const float*>(wide_writes[o.index]);
    for_ranges(*context.pool, o.elements, 4 + size_of(o.type), 1024,
               [&](i64 b, i64 e) { narrow(o.type, copy + b, writes[o.index] + b * size_of(o.type), e - b); });
  }
  if (types.quantized)
    quantize(types.quantized->type, types.quantized->rows, types.quantized->columns, reinterpret_cast<const float*>(wide_writes[0]),
             writes[0], writes[writes.size() - 2], reinterpret_cast<float*>(writes.back()), *context.pool);
}

}  // namespace

KernelScratch kernel_scratch(const Op& op) {
  const StoredTypes types = stored_types(op);
  const ScratchFloats floats = std::visit(ScratchOf{}, op);
  return {{scratch_bytes(floats.shared) + (types.any() ? scratch_bytes(types.floats()) : 0)}, {scratch_bytes(floats.per_thread)}};
}

void run(const Op& op, std::span<const std::byte* const> reads, std::span<std::byte* const> writes,
         const KernelContext& context) {
  if (const auto* norm = std::get_if<RmsNorm>(&op); norm && norm->residual && norm->dtype != DType::fp32) {
    // What is normalised is the sum as it is stored, rounded: recomputation starts from that.
    run(Add{norm->rows * norm->hidden, norm->dtype}, std::array{reads[0], reads[2]}, std::array{writes[2]}, context);
    RmsNorm of_sum = *norm;
    of_sum.residual = false;
    std::vector<std::byte*> results{writes[0], writes[1]};
    results.insert(results.end(), writes.begin() + 3, writes.end());
    return run(of_sum, std::array<const std::byte*, 2>{writes[2], reads[1]}, results, context);
  }
  if (const StoredTypes types = stored_types(op); types.any()) return run_widened(types, reads, writes, context);
  std::visit(Run{{reads, writes}, context}, op);
}

}  // namespace llmplan::cpu
