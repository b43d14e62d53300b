// The fields of every op, once: what reads and writes ops (calibrations, plan digests) walks these
// lists. A field added to an op in op.h is added here and nowhere else; the static_asserts below
// notice if not.
#pragma once

#include <tuple>
#include <utility>

#include "costmodel/op.h"

namespace llmplan {

template <class O>
struct OpFields;

#define LLMPLAN_FIELD(O, f) \
  std::pair<const char*, decltype(&O::f)> { #f, &O::f }

template <>
struct OpFields<Load> {
  static constexpr auto list = std::make_tuple(LLMPLAN_FIELD(Load, rows), LLMPLAN_FIELD(Load, documents));
};
template <>
struct OpFields<Gemm> {
  static constexpr auto list = std::make_tuple(
      LLMPLAN_FIELD(Gemm, m), LLMPLAN_FIELD(Gemm, n), LLMPLAN_FIELD(Gemm, k),
      LLMPLAN_FIELD(Gemm, a_transposed), LLMPLAN_FIELD(Gemm, b_transposed),
      LLMPLAN_FIELD(Gemm, accumulate), LLMPLAN_FIELD(Gemm, in), LLMPLAN_FIELD(Gemm, out));
};
template <>
struct OpFields<Quantize> {
  static constexpr auto list = std::make_tuple(
      LLMPLAN_FIELD(Quantize, rows), LLMPLAN_FIELD(Quantize, columns), LLMPLAN_FIELD(Quantize, straight),
      LLMPLAN_FIELD(Quantize, transposed), LLMPLAN_FIELD(Quantize, from), LLMPLAN_FIELD(Quantize, to));
};
template <>
struct OpFields<Embedding> {
  static constexpr auto list =
      std::make_tuple(LLMPLAN_FIELD(Embedding, rows), LLMPLAN_FIELD(Embedding, hidden),
                      LLMPLAN_FIELD(Embedding, vocab), LLMPLAN_FIELD(Embedding, dtype));
};
template <>
struct OpFields<EmbeddingGrad> {
  static constexpr auto list =
      std::make_tuple(LLMPLAN_FIELD(EmbeddingGrad, rows), LLMPLAN_FIELD(EmbeddingGrad, hidden),
                      LLMPLAN_FIELD(EmbeddingGrad, vocab), LLMPLAN_FIELD(EmbeddingGrad, accumulate),
                      LLMPLAN_FIELD(EmbeddingGrad, dtype));
};
template <>
struct OpFields<RmsNorm> {
  static constexpr auto list = std::make_tuple(
      LLMPLAN_FIELD(RmsNorm, rows), LLMPLAN_FIELD(RmsNorm, hidden),
      LLMPLAN_FIELD(RmsNorm, residual), LLMPLAN_FIELD(RmsNorm, eps), LLMPLAN_FIELD(RmsNorm, dtype),
                      LLMPLAN_FIELD(RmsNorm, quantize));
};
template <>
struct OpFields<RmsNormGrad> {
  static constexpr auto list =
      std::make_tuple(LLMPLAN_FIELD(RmsNormGrad, rows), LLMPLAN_FIELD(RmsNormGrad, hidden),
                      LLMPLAN_FIELD(RmsNormGrad, residual), LLMPLAN_FIELD(RmsNormGrad, accumulate),
                      LLMPLAN_FIELD(RmsNormGrad, dtype));
};
template <>
struct OpFields<Rope> {
  static constexpr auto list = std::make_tuple(
      LLMPLAN_FIELD(Rope, rows), LLMPLAN_FIELD(Rope, seq), LLMPLAN_FIELD(Rope, heads),
      LLMPLAN_FIELD(Rope, kv_heads), LLMPLAN_FIELD(Rope, head_dim), LLMPLAN_FIELD(Rope, backward),
      LLMPLAN_FIELD(Rope, dtype),
                      LLMPLAN_FIELD(Rope, documents));
};
template <>
struct OpFields<Attention> {
  static constexpr auto list =
      std::make_tuple(LLMPLAN_FIELD(Attention, batch), LLMPLAN_FIELD(Attention, seq),
                      LLMPLAN_FIELD(Attention, heads), LLMPLAN_FIELD(Attention, kv_heads),
                      LLMPLAN_FIELD(Attention, head_dim), LLMPLAN_FIELD(Attention, causal),
                      LLMPLAN_FIELD(Attention, dtype),
                      LLMPLAN_FIELD(Attention, documents));
};
template <>
struct OpFields<AttentionGrad> {
  static constexpr auto list =
      std::make_tuple(LLMPLAN_FIELD(AttentionGrad, batch), LLMPLAN_FIELD(AttentionGrad, seq),
                      LLMPLAN_FIELD(AttentionGrad, heads), LLMPLAN_FIELD(AttentionGrad, kv_heads),
                      LLMPLAN_FIELD(AttentionGrad, head_dim), LLMPLAN_FIELD(AttentionGrad, causal),
                      LLMPLAN_FIELD(AttentionGrad, dtype),
                      LLMPLAN_FIELD(AttentionGrad, documents), LLMPLAN_FIELD(AttentionGrad, workspace));
};
template <>
struct OpFields<SwiGlu> {
  static constexpr auto list = std::make_tuple(
      LLMPLAN_FIELD(SwiGlu, rows), LLMPLAN_FIELD(SwiGlu, ffn), LLMPLAN_FIELD(SwiGlu, dtype),
                      LLMPLAN_FIELD(SwiGlu, quantize));
};
template <>
struct OpFields<SwiGluGrad> {
  static constexpr auto list =
      std::make_tuple(LLMPLAN_FIELD(SwiGluGrad, rows), LLMPLAN_FIELD(SwiGluGrad, ffn),
                      LLMPLAN_FIELD(SwiGluGrad, dtype),
                      LLMPLAN_FIELD(SwiGluGrad, quantize));
};
template <>
struct OpFields<Add> {
  static constexpr auto list =
      std::make_tuple(LLMPLAN_FIELD(Add, elements), LLMPLAN_FIELD(Add, dtype));
};
template <>
struct OpFields<CrossEntropyStats> {
  static constexpr auto list = std::make_tuple(
      LLMPLAN_FIELD(CrossEntropyStats, rows), LLMPLAN_FIELD(CrossEntropyStats, vocab),
      LLMPLAN_FIELD(CrossEntropyStats, vocab_total), LLMPLAN_FIELD(CrossEntropyStats, dtype));
};
template <>
struct OpFields<CrossEntropyGrad> {
  static constexpr auto list = std::make_tuple(
      LLMPLAN_FIELD(CrossEntropyGrad, rows), LLMPLAN_FIELD(CrossEntropyGrad, vocab),
      LLMPLAN_FIELD(CrossEntropyGrad, vocab_total), LLMPLAN_FIELD(CrossEntropyGrad, shards),
      LLMPLAN_FIELD(CrossEntropyGrad, divisor), LLMPLAN_FIELD(CrossEntropyGrad, gradient),
      LLMPLAN_FIELD(CrossEntropyGrad, accumulate), LLMPLAN_FIELD(CrossEntropyGrad, dtype),
      LLMPLAN_FIELD(CrossEntropyGrad, scaled));
};
template <>
struct OpFields<GradStats> {
  static constexpr auto list =
      std::make_tuple(LLMPLAN_FIELD(GradStats, elements), LLMPLAN_FIELD(GradStats, shards), LLMPLAN_FIELD(GradStats, accumulate));
};
template <>
struct OpFields<LossScale> {
  static constexpr auto list = std::make_tuple(LLMPLAN_FIELD(LossScale, window));
};
template <>
struct OpFields<AdamW> {
  static constexpr auto list =
      std::make_tuple(LLMPLAN_FIELD(AdamW, elements), LLMPLAN_FIELD(AdamW, shards),
                      LLMPLAN_FIELD(AdamW, divisor), LLMPLAN_FIELD(AdamW, weights),
                      LLMPLAN_FIELD(AdamW, scaled), LLMPLAN_FIELD(AdamW, stochastic),
                      LLMPLAN_FIELD(AdamW, seed));
};
template <>
struct OpFields<Collective> {  // `kind` is the op's name: all_reduce, …
  static constexpr auto list =
      std::make_tuple(LLMPLAN_FIELD(Collective, axis), LLMPLAN_FIELD(Collective, size),
                      LLMPLAN_FIELD(Collective, dtype));
};
template <>
struct OpFields<Send> {
  static constexpr auto list =
      std::make_tuple(LLMPLAN_FIELD(Send, stage), LLMPLAN_FIELD(Send, size));
};
template <>
struct OpFields<Recv> {
  static constexpr auto list =
      std::make_tuple(LLMPLAN_FIELD(Recv, stage), LLMPLAN_FIELD(Recv, size));
};

#undef LLMPLAN_FIELD

// Calls visit("m", op.m) for each field, in the order of op.h. O may be const.
template <class O, class Visit>
void for_each_field(O& op, Visit&& visit) {
  std::apply([&](const auto&... field) { (visit(field.first, op.*field.second), ...); },
             OpFields<std::remove_const_t<O>>::list);
}

namespace op_fields_detail {
// Structured bindings count the members of an aggregate by whether {any, any, …} initialises it.
struct Any {
  template <class T>
  constexpr operator T() const;
};
template <class O, class... A>
constexpr std::size_t members() {
  if constexpr (requires { O{A{}..., Any{}}; })
    return members<O, A..., Any>();
  else
    return sizeof...(A);
}
template <class... O>
constexpr bool complete(std::variant<O...>*) {
  return ((members<O>() ==
           std::tuple_size_v<decltype(OpFields<O>::list)> + std::is_same_v<O, Collective>)&&...);
}
static_assert(complete(static_cast<Op*>(nullptr)), "an op has a field that OpFields does not list");
}  // namespace op_fields_detail

}  // namespace llmplan
