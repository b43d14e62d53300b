#include "executor/cpu/kernels.h"

#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <string>
#include <variant>

#include "costmodel/error.h"
#include "executor/cpu/isa/table.h"
#include "executor/cpu/products.h"
#include "executor/cpu/scratch.h"

namespace llmplan::cpu {
namespace {

using i64 = std::int64_t;

constexpr i64 ceil_div(i64 a, i64 b) { return (a + b - 1) / b; }

void need_fp32(DType dtype) {
  if (dtype == DType::fp32) return;
  throw Error("E0510", Exit::environment, "the CPU kernels compute in fp32, not in another type",
              "Set `precision: fp32` in the workload: on a CPU, bf16 arithmetic is slower than fp32.");
}

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
    need_fp32(op.in), need_fp32(op.out);
    gemm(k, op, x.in(0), x.in(1), x.out(0), pool);
  }
  void operator()(const Embedding& op) const {
    need_fp32(op.dtype);
    const auto *ids = x.in<std::int32_t>(0);
    const float* table = x.in(1);
    float* to = x.out(0);
    for_ranges(pool, op.rows, op.hidden * 8, 1,
               [&](i64 b, i64 e) { k.embedding(op, context.where.tp * op.vocab, ids, table, to, b, e); });
  }
  void operator()(const EmbeddingGrad& op) const {
    need_fp32(op.dtype);
    const auto *ids = x.in<std::int32_t>(0);
    const float* dx = x.in(1);
    float* dtable = x.out(0);
    // Columns, so that every sum runs in row order. At least two cache lines wide.
    const i64 bytes = (op.rows + (op.accumulate ? op.rows : op.vocab)) * 4;
    for_ranges(pool, op.hidden, bytes, 32,
               [&](i64 b, i64 e) { k.embedding_grad(op, context.where.tp * op.vocab, ids, dx, dtable, b, e); });
  }
  void operator()(const RmsNorm& op) const {
    need_fp32(op.dtype);
    const float *from = x.in(0), *weight = x.in(1), *delta = op.residual ? x.in(2) : nullptr;
    float *y = x.out(0), *rstd = x.out(1), *sum = op.residual ? x.out(2) : nullptr;
    for_ranges(pool, op.rows, op.hidden * (op.residual ? 16 : 8), 1,
               [&](i64 b, i64 e) { k.rms_norm(op, from, weight, delta, y, rstd, sum, b, e); });
  }
  void operator()(const RmsNormGrad& op) const {
    need_fp32(op.dtype);
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
    need_fp32(op.dtype);
    const float* table = x.in(0);
    float* qkv = x.out(0);
    for_ranges(pool, op.rows, (op.heads + op.kv_heads) * op.head_dim * 8, 1,
               [&](i64 b, i64 e) { k.rope(op, table, qkv, b, e); });
  }
  void operator()(const Attention& op) const {
    need_fp32(op.dtype);
    attention(k, op, x.in(0), x.out(0), x.out(1), pool);
  }
  void operator()(const AttentionGrad& op) const {
    need_fp32(op.dtype);
    attention_grad(k, op, x.in(0), x.in(1), x.in(2), x.in(3), x.out(0), x.out(1), pool);
  }
  void operator()(const SwiGlu& op) const {
    need_fp32(op.dtype);
    const float* gate_up = x.in(0);
    float* to = x.out(0);
    for_ranges(pool, op.rows, op.ffn * 12, 1, [&](i64 b, i64 e) { k.swiglu(op, gate_up, to, b, e); });
  }
  void operator()(const SwiGluGrad& op) const {
    need_fp32(op.dtype);
    const float *gate_up = x.in(0), *dout = x.in(1);
    float* to = x.out(0);
    for_ranges(pool, op.rows, op.ffn * 20, 1, [&](i64 b, i64 e) { k.swiglu_grad(op, gate_up, dout, to, b, e); });
  }
  void operator()(const Add& op) const {
    need_fp32(op.dtype);
    const float *a = x.in(0), *b = x.in(1);
    float* to = x.out(0);
    for_ranges(pool, op.elements, 12, 1024, [&](i64 i, i64 e) { k.add(a + i, b + i, to + i, e - i); });
  }
  i64 valid_columns(i64 vocab, i64 vocab_total) const {
    return std::clamp<i64>(vocab_total - context.where.tp * vocab, 0, vocab);
  }
  void operator()(const CrossEntropyStats& op) const {
    need_fp32(op.dtype);
    const float* logits = x.in(0);
    const auto* targets = x.in<std::int32_t>(1);
    float* stats = x.out(0);
    const i64 first = context.where.tp * op.vocab, valid = valid_columns(op.vocab, op.vocab_total);
    for_ranges(pool, op.rows, op.vocab * 8, 1,
               [&](i64 b, i64 e) { k.cross_entropy_stats(op, first, valid, logits, targets, stats, b, e); });
  }
  void operator()(const CrossEntropyGrad& op) const {
    need_fp32(op.dtype);
    const auto* targets = x.in<std::int32_t>(0);
    const float* stats = x.in(1);
    float* logits = op.gradient ? x.out(0) : nullptr;
    double* loss = reinterpret_cast<double*>(x.writes.back());
    const i64 first = context.where.tp * op.vocab, valid = valid_columns(op.vocab, op.vocab_total);
    // Blocks of rows that depend on the shape only, their sums added in order.
    const i64 rows = loss_block(op), blocks = ceil_div(op.rows, rows);
    double* partial = reinterpret_cast<double*>(scratch(ScratchUse::shared, 4 * blocks));
    const auto block = [&](i64 i) {
      partial[2 * i] = partial[2 * i + 1] = 0;
      k.cross_entropy_grad(op, first, valid, targets, stats, logits, partial + 2 * i, i * rows, std::min(op.rows, (i + 1) * rows));
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
  i64 first_element(i64 elements, i64 shards) const { return shards > 1 ? context.where.dp * elements : 0; }

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
        if (p.counted && (p.tp_dim >= 0 || where.tp == 0)) partial[i] += k.sum_squares(gradients + b, e - b);
      });
    });
    double sum = 0;
    for (i64 i = 0; i < blocks; ++i) sum += partial[i];
    const double* loss = x.reads.size() > 1 && where.tp == 0 ? x.in<double>(1) : nullptr;
    stats[0] = sum, stats[1] = loss ? loss[0] : 0, stats[2] = loss ? loss[1] : 0;
  }

  void operator()(const AdamW& op) const {
    need_fp32(op.weights);
    const float* gradients = x.in(0);
    const double* stats = x.in<double>(1);
    float *weights = x.out(0), *m = x.out(1), *v = x.out(2);
    const Optimizer& o = *context.optimizer;
    const double t = static_cast<double>(context.step.step), lr = context.step.learning_rate;
    const double correction = stats[2] > 0 ? static_cast<double>(op.divisor) / stats[2] : 1.0;
    const double norm = std::sqrt(stats[0]) * correction;
    const double clip = o.clip > 0 ? std::min(1.0, o.clip / (norm + 1e-6)) : 1.0;
    AdamWScalars s{};
    s.gradient_scale = static_cast<float>(correction * clip);
    s.beta1 = static_cast<float>(o.beta1), s.beta2 = static_cast<float>(o.beta2), s.eps = static_cast<float>(o.eps);
    s.step = static_cast<float>(lr / (1 - std::pow(o.beta1, t)));
    s.rsqrt_correction = static_cast<float>(1 / std::sqrt(1 - std::pow(o.beta2, t)));
    const float decayed = static_cast<float>(1 - lr * o.weight_decay);
    const i64 first = first_element(op.elements, op.shards);
    pool.parallel_for(ceil_div(op.elements, kFlatBlock), [&](i64 i) {
      for_params(first + i * kFlatBlock, first + std::min(op.elements, (i + 1) * kFlatBlock), [&](const Param& p, i64 b, i64 e) {
        AdamWScalars here = s;
        here.keep = p.decay ? decayed : 1.0f;
        k.adamw(here, gradients + b, weights + b, m + (b - first), v + (b - first), e - b);
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
  ScratchFloats operator()(const AdamW&) const { return {}; }
  ScratchFloats operator()(const Collective&) const { return {}; }
  ScratchFloats operator()(const Send&) const { return {}; }
  ScratchFloats operator()(const Recv&) const { return {}; }
};

}  // namespace

KernelScratch kernel_scratch(const Op& op) {
  const ScratchFloats floats = std::visit(ScratchOf{}, op);
  return {{scratch_bytes(floats.shared)}, {scratch_bytes(floats.per_thread)}};
}

void run(const Op& op, std::span<const std::byte* const> reads, std::span<std::byte* const> writes,
         const KernelContext& context) {
  std::visit(Run{{reads, writes}, context}, op);
}

}  // namespace llmplan::cpu
