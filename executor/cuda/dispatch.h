// Which kernels an op needs, with what arguments.
#pragma once

#include <algorithm>
#include <span>
#include <string>
#include <variant>

#include "costmodel/error.h"
#include "executor/cuda/attention.h"
#include "executor/cuda/attention_reference.h"
#include "executor/cuda/cross_entropy.h"
#include "executor/cuda/embedding.h"
#include "executor/cuda/launch_context.h"
#include "executor/cuda/norm.h"
#include "executor/cuda/optimizer.h"
#include "executor/cuda/pointwise.h"
#include "executor/cuda/quantize.h"

namespace llmplan::cuda {

[[noreturn]] inline void refuse(const std::string& what) {
  throw Error("E0510", Exit::environment, "no GPU kernel for " + what,
              "use --precision bf16 or fp32, or run on the CPU");
}

// Operands of one instruction by position, as pointers to what they hold.
struct Operands {
  std::span<const std::byte* const> reads;
  std::span<std::byte* const> writes;
  template <class T> const T* in(std::size_t i) const { return reinterpret_cast<const T*>(reads[i]); }
  template <class T> T* out(std::size_t i) const { return reinterpret_cast<T*>(writes[i]); }
};

// Calls f with a value of the number type that `t` names.
template <class F>
inline void with_type(DType t, F f) {
  switch (t) {
    case DType::fp32: return f(float{});
    case DType::bf16: return f(BFloat16{});
    case DType::fp16: return f(Float16{});
    default: refuse(std::string(name_of(t)));
  }
}

inline void need_multiple(std::int64_t value, std::int64_t of, const char* what) {
  if (value % of) refuse(std::string(what) + " = " + std::to_string(value) + ", not a multiple of " + std::to_string(of));
}

// Visits an op and hands its kernels, in order, to `start`. On the device `start` launches on a stream,
// in tests it emulates: operand order, geometry and choice of kernel are the same code.
template <class Start>
struct Dispatch {
  Operands at;
  const LaunchContext& context;
  Start start;

  // Writes a result of `source` quantised; `magnitudes`: those of its rows are known already.
  template <class Q, class Source>
  void quantized(std::int64_t rows, std::int64_t columns, const Source& source, bool straight, bool transposed,
                 bool magnitudes = false) const {
    need_multiple(rows, 4, "rows of an fp8 operand");
    need_multiple(columns, 4, "columns of an fp8 operand");
    float* factor = at.out<float>(at.writes.size() - 1);
    if (!magnitudes) start(MagnitudesKernel<Source>{rows, columns, source, factor + 1});
    start(FactorKernel{rows, Format8<Q>::kLargest, factor});
    start(QuantizeKernel<Source, Q>{rows, columns, source, straight ? at.out<Q>(0) : nullptr,
                                    transposed ? at.out<Q>(at.writes.size() - 2) : nullptr, factor});
  }
  void operator()(const Quantize& op) const {
    with_type(op.from, [&](auto type) {
      PlainSource<decltype(type)> source{op.columns, at.in<decltype(type)>(0)};
      if (op.to == DType::fp8_e4m3) quantized<E4M3>(op.rows, op.columns, source, op.straight, op.transposed);
      else if (op.to == DType::fp8_e5m2) quantized<E5M2>(op.rows, op.columns, source, op.straight, op.transposed);
      else refuse("quantisation to " + std::string(name_of(op.to)));
    });
  }
  void operator()(const Embedding& op) const {
    with_type(op.dtype, [&](auto type) {
      using T = decltype(type);
      need_multiple(op.hidden, kVec<T>, "hidden_size");
      start(EmbeddingKernel<T>{op.rows, op.hidden, op.vocab, context.where.tp * op.vocab, at.in<std::int32_t>(0),
                               at.in<T>(1), at.out<T>(0)});
    });
  }
  void operator()(const EmbeddingGrad& op) const {
    if (!op.accumulate)
      start(FillKernel{op.vocab * op.hidden, 0.0f, at.out<float>(0)});
    with_type(op.dtype, [&](auto type) {
      using T = decltype(type);
      start(EmbeddingGradKernel<T>{op.rows, op.hidden, op.vocab, context.where.tp * op.vocab, at.in<std::int32_t>(0),
                                   at.in<T>(1), at.out<float>(0)});
    });
  }
  void operator()(const RmsNorm& op) const {
    with_type(op.dtype, [&](auto type) {
      using T = decltype(type);
      need_multiple(op.hidden, kVec<T>, "hidden_size");
      start(RmsNormKernel<T>{op.rows, op.hidden, op.eps, at.in<T>(0), at.in<T>(1), op.residual ? at.in<T>(2) : nullptr,
                             op.quantize ? nullptr : at.out<T>(0), at.out<float>(1), op.residual ? at.out<T>(2) : nullptr,
                             op.quantize ? at.out<float>(at.writes.size() - 1) + 1 : nullptr});
      if (op.quantize)
        quantized<E4M3>(op.rows, op.hidden, NormSource<T>{op.hidden, op.residual ? at.out<T>(2) : at.in<T>(0), at.out<float>(1), at.in<T>(1)},
                        true, true, true);
    });
  }
  void operator()(const RmsNormGrad& op) const {
    with_type(op.dtype, [&](auto type) {
      using T = decltype(type);
      need_multiple(op.hidden, kVec<T>, "hidden_size");
      const T* x = at.in<T>(0);
      const float* rstd = at.in<float>(1);
      const T* dy = at.in<T>(3);
      // The weight's gradient first: dx may overwrite dresidual, but never x or dy.
      start(NormWeightPartialKernel<T>{op.rows, op.hidden, x, rstd, dy, at.out<float>(2)});
      start(NormWeightSumKernel{norm_grad_blocks(op.rows), op.hidden, op.accumulate, at.out<float>(2), at.out<float>(1)});
      start(RmsNormGradKernel<T>{op.rows, op.hidden, x, rstd, at.in<T>(2), dy, op.residual ? at.in<T>(4) : nullptr,
                                 at.out<T>(0)});
    });
  }
  void operator()(const Rope& op) const {
    with_type(op.dtype, [&](auto type) {
      using T = decltype(type);
      need_multiple(op.head_dim, 2, "head_dim");
      const auto rotate = [&]<int N>(std::integral_constant<int, N>) {
        start(RopeKernel<T, N>{op.rows, op.seq, op.heads, op.kv_heads, op.head_dim, op.backward, at.in<float>(0),
                               op.documents ? at.in<std::int32_t>(1) : nullptr, at.out<T>(0)});
      };
      if (op.head_dim % (2 * kVec<T>) == 0) rotate(std::integral_constant<int, kVec<T>>{});
      else rotate(std::integral_constant<int, 1>{});
    });
  }
  // Tensor-core kernels exist for bf16 and fp16 and the head sizes of current models; the reference does the rest.
  static bool on_tensor_cores(DType dtype, std::int64_t head_dim) {
    return (dtype == DType::bf16 || dtype == DType::fp16) && (head_dim == 64 || head_dim == 96 || head_dim == 128);
  }
  template <class T, template <int, class> class Kernel, class... Arguments>
  void start_sized(std::int64_t head_dim, Arguments... arguments) const {
    switch (head_dim) {
      case 64: return start(Kernel<64, T>{arguments...});
      case 96: return start(Kernel<96, T>{arguments...});
      default: return start(Kernel<128, T>{arguments...});
    }
  }
  template <class F>
  static void with_half_type(DType t, F f) { t == DType::fp16 ? f(Float16{}) : f(BFloat16{}); }

  void operator()(const Attention& op) const {
    if (!op.causal) refuse("attention without a causal mask");
    if (op.head_dim > kMaxHeadDim) refuse("head_dim " + std::to_string(op.head_dim));
    const AttentionShape shape{op.batch, op.seq, op.heads, op.kv_heads, op.head_dim, op.documents ? at.in<std::int32_t>(1) : nullptr};
    if (on_tensor_cores(op.dtype, op.head_dim))
      return with_half_type(op.dtype, [&](auto type) {
        using T = decltype(type);
        start_sized<T, AttentionKernel>(op.head_dim, shape, at.in<T>(0), at.out<T>(0), at.out<float>(1));
      });
    with_type(op.dtype, [&](auto type) {
      using T = decltype(type);
      start(AttentionReferenceKernel<T>{shape, at.in<T>(0), at.out<T>(0), at.out<float>(1)});
    });
  }
  void operator()(const AttentionGrad& op) const {
    if (!op.causal) refuse("attention without a causal mask");
    if (op.head_dim > kMaxHeadDim) refuse("head_dim " + std::to_string(op.head_dim));
    const AttentionShape shape{op.batch, op.seq, op.heads, op.kv_heads, op.head_dim, op.documents ? at.in<std::int32_t>(4) : nullptr};
    const float* lse = at.in<float>(2);
    float* delta = at.out<float>(1);
    with_type(op.dtype, [&](auto type) {
      using T = decltype(type);
      start(AttentionDeltaKernel<T>{shape, at.in<T>(1), at.in<T>(3), delta});
    });
    if (on_tensor_cores(op.dtype, op.head_dim))
      return with_half_type(op.dtype, [&](auto type) {
        using T = decltype(type);
        start_sized<T, AttentionGradQKernel>(op.head_dim, shape, at.in<T>(0), at.in<T>(3), lse, delta, at.out<T>(0));
        start_sized<T, AttentionGradKVKernel>(op.head_dim, shape, at.in<T>(0), at.in<T>(3), lse, delta, at.out<T>(0));
      });
    with_type(op.dtype, [&](auto type) {
      using T = decltype(type);
      start(AttentionReferenceGradQKernel<T>{shape, at.in<T>(0), at.in<T>(3), lse, delta, at.out<T>(0)});
      start(AttentionReferenceGradKVKernel<T>{shape, at.in<T>(0), at.in<T>(3), lse, delta, at.out<T>(0)});
    });
  }
  void operator()(const SwiGlu& op) const {
    with_type(op.dtype, [&](auto type) {
      using T = decltype(type);
      need_multiple(op.ffn, kVec<T>, "intermediate_size");
      if (op.quantize) return quantized<E4M3>(op.rows, op.ffn, SwiGluSource<T>{op.ffn, at.in<T>(0)}, true, true);
      start(SwiGluKernel<T>{op.rows, op.ffn, at.in<T>(0), at.out<T>(0)});
    });
  }
  void operator()(const SwiGluGrad& op) const {
    with_type(op.dtype, [&](auto type) {
      using T = decltype(type);
      need_multiple(op.ffn, kVec<T>, "intermediate_size");
      if (op.quantize)
        return quantized<E5M2>(op.rows, 2 * op.ffn, SwiGluGradSource<T>{op.ffn, at.in<T>(0), at.in<T>(1)}, true, true);
      start(SwiGluGradKernel<T>{op.rows, op.ffn, at.in<T>(0), at.in<T>(1), at.out<T>(0)});
    });
  }
  void operator()(const Add& op) const {
    with_type(op.dtype, [&](auto type) {
      using T = decltype(type);
      start(AddKernel<T>{op.elements, at.in<T>(0), at.in<T>(1), at.out<T>(0)});
    });
  }
  // Columns of this rank's share that belong to the real vocabulary.
  static std::int64_t valid(std::int64_t vocab, std::int64_t total, std::int64_t first) {
    return std::max<std::int64_t>(0, std::min(vocab, total - first));
  }
  void operator()(const CrossEntropyStats& op) const {
    std::int64_t first = context.where.tp * op.vocab;
    with_type(op.dtype, [&](auto type) {
      using T = decltype(type);
      start(CrossEntropyStatsKernel<T>{op.rows, op.vocab, valid(op.vocab, op.vocab_total, first), first, at.in<T>(0),
                                       at.in<std::int32_t>(1), at.out<float>(0)});
    });
  }
  void operator()(const CrossEntropyGrad& op) const {
    std::int64_t first = context.where.tp * op.vocab;
    start(CrossEntropyLossKernel{op.rows, op.shards, op.accumulate, at.in<std::int32_t>(0), at.in<float>(1),
                                 at.out<double>(1)});
    if (!op.gradient) return;
    with_type(op.dtype, [&](auto type) {
      using T = decltype(type);
      start(CrossEntropyGradKernel<T>{op.rows, op.vocab, valid(op.vocab, op.vocab_total, first), first, op.shards,
                                      op.divisor, at.in<std::int32_t>(0), at.in<float>(1), at.out<T>(0),
                                      op.scaled ? at.in<LossScaling>(2) : nullptr});
    });
  }
  std::int64_t slice_begin(std::int64_t elements, std::int64_t shards) const {
    return context.flat_begin + (shards > 1 ? context.where.dp * elements : 0);
  }
  void operator()(const GradStats& op) const {
    start(GradSquaresKernel{context.flat_begin, slice_begin(op.elements, op.shards), op.elements, context.segment_count, context.segments,
                            at.in<float>(0), context.partial});
    bool loss = at.reads.size() > 1 && context.counts_loss;
    start(GradStatsKernel{partial_doubles(op.elements), op.accumulate, context.partial, loss ? at.in<double>(1) : nullptr,
                          at.out<double>(0)});
  }
  void operator()(const LossScale& op) const {
    start(LossScaleKernel{op.window, context.optimizer->beta1, context.optimizer->beta2, at.out<double>(0), at.out<LossScaling>(1)});
  }
  void operator()(const AdamW& op) const {
    const Optimizer& o = *context.optimizer;
    const AdamUpdate update{op.divisor, o.beta1, o.beta2, o.eps, o.weight_decay, o.clip, context.scalars, at.in<double>(1),
                            op.scaled ? at.in<LossScaling>(2) : nullptr};
    const std::int64_t begin = slice_begin(op.elements, op.shards);
    if (op.stochastic) {
      if (op.weights != DType::bf16) refuse("stochastic rounding to " + std::string(name_of(op.weights)));
      return start(LeanAdamWKernel{context.flat_begin, begin, op.elements, context.segment_count, op.seed, update, context.segments, at.in<float>(0),
                                   at.out<BFloat16>(0), at.out<BFloat16>(1), at.out<BFloat16>(2)});
    }
    with_type(op.weights, [&](auto type) {
      using T = decltype(type);
      start(AdamWKernel<T>{context.flat_begin, begin, op.elements, context.segment_count, update, context.segments, at.in<float>(0), at.out<T>(0),
                           at.out<float>(1), at.out<float>(2), at.writes.size() > 3 ? at.out<float>(3) : nullptr});
    });
  }
  // Not kernels of this file: the backend handles them.
  void operator()(const Gemm&) const { refuse("gemm"); }
  void operator()(const Load&) const { refuse("load"); }
  void operator()(const Collective&) const { refuse("collective"); }
  void operator()(const Send&) const { refuse("send"); }
  void operator()(const Recv&) const { refuse("recv"); }
};

// out = Σ over ranks in rank order.
template <class Start>
void dispatch_rank_sum(DType dtype, std::int64_t elements, std::span<const std::byte* const> in, std::byte* out,
                       Start start) {
  if (in.size() > kMaxLocalRanks) refuse(std::to_string(in.size()) + " ranks on one GPU");
  auto sum = [&](auto type, auto total) {
    using T = decltype(type);
    RankSumKernel<T, decltype(total)> kernel{elements, static_cast<int>(in.size()), {}, reinterpret_cast<T*>(out)};
    for (std::size_t r = 0; r < in.size(); ++r) kernel.in[r] = reinterpret_cast<const T*>(in[r]);
    start(kernel);
  };
  switch (dtype) {
    case DType::fp32: return sum(float{}, float{});
    case DType::bf16: return sum(BFloat16{}, float{});
    case DType::fp16: return sum(Float16{}, float{});
    case DType::fp64: return sum(double{}, double{});
    default: refuse("a sum of " + std::string(name_of(dtype)));
  }
}

}  // namespace llmplan::cuda
