#include "costmodel/op.h"

namespace llmplan {
namespace {

template <class... F>
struct Overload : F... {
  using F::operator()...;
};
template <class... F>
Overload(F...) -> Overload<F...>;

constexpr double d(std::int64_t x) { return static_cast<double>(x); }

// (query, key) pairs of one head and sequence: a causal mask keeps the diagonal and what is below it.
constexpr std::int64_t pairs(std::int64_t seq, bool causal) {
  return causal ? seq * (seq + 1) / 2 : seq * seq;
}
constexpr std::int64_t qkv_width(std::int64_t heads, std::int64_t kv_heads, std::int64_t head_dim) {
  return (heads + 2 * kv_heads) * head_dim;
}

}  // namespace

std::string_view name_of(DType t) {
  switch (t) {
    case DType::fp32: return "fp32";
    case DType::bf16: return "bf16";
    case DType::fp16: return "fp16";
    case DType::fp8_e4m3: return "fp8_e4m3";
    case DType::fp8_e5m2: return "fp8_e5m2";
    case DType::int32: return "int32";
    case DType::fp64: return "fp64";
  }
  return "?";
}

std::string_view name_of(Axis a) {
  switch (a) {
    case Axis::tp: return "tp";
    case Axis::cp: return "cp";
    case Axis::ep: return "ep";
    case Axis::dp: return "dp";
    case Axis::embedding: return "embedding";
    case Axis::world: return "world";
  }
  return "?";
}

std::string_view name_of(Collective::Kind k) {
  switch (k) {
    case Collective::Kind::all_reduce: return "all_reduce";
    case Collective::Kind::all_gather: return "all_gather";
    case Collective::Kind::reduce_scatter: return "reduce_scatter";
    case Collective::Kind::broadcast: return "broadcast";
    case Collective::Kind::all_to_all: return "all_to_all";
  }
  return "?";
}

std::string_view kind_of(const Op& op) {
  using R = std::string_view;
  return std::visit(
      Overload{
          [](const Load&) -> R { return "load"; },
          [](const Gemm&) -> R { return "gemm"; },
          [](const Quantize&) -> R { return "quantize"; },
          [](const Embedding&) -> R { return "embedding"; },
          [](const EmbeddingGrad&) -> R { return "embedding_grad"; },
          [](const RmsNorm&) -> R { return "rms_norm"; },
          [](const RmsNormGrad&) -> R { return "rms_norm_grad"; },
          [](const Rope&) -> R { return "rope"; },
          [](const Attention&) -> R { return "attention"; },
          [](const AttentionGrad&) -> R { return "attention_grad"; },
          [](const SwiGlu&) -> R { return "swiglu"; },
          [](const SwiGluGrad&) -> R { return "swiglu_grad"; },
          [](const Add&) -> R { return "add"; },
          [](const CrossEntropyStats&) -> R { return "cross_entropy_stats"; },
          [](const CrossEntropyGrad&) -> R { return "cross_entropy_grad"; },
          [](const GradStats&) -> R { return "grad_stats"; },
          [](const LossScale&) -> R { return "loss_scale"; },
          [](const AdamW&) -> R { return "adamw"; },
          [](const Collective& c) -> R { return name_of(c.kind); },
          [](const Send&) -> R { return "send"; },
          [](const Recv&) -> R { return "recv"; },
      },
      op);
}

// Arithmetic that the op's definition in op.h spells out; a multiply-add counts 2, an exp, log, sqrt or
// division 1. Matrix work is exact; of pointwise ops only the order of magnitude ever matters.
Flops flops(const Op& op) {
  const double n = std::visit(
      Overload{
          [](const Load&) { return 0.0; },
          [](const Gemm& g) { return 2.0 * d(g.m) * d(g.n) * d(g.k); },
          // once to find the largest, once to scale
          [](const Quantize& q) { return 2.0 * d(q.rows) * d(q.columns); },
          [](const Embedding&) { return 0.0; },
          [](const EmbeddingGrad& e) { return d(e.rows) * d(e.hidden); },
          // square-add 2, scale 1, weight 1; residual add 1
          [](const RmsNorm& r) { return (r.residual ? 5.0 : 4.0) * d(r.rows) * d(r.hidden); },
          // w·dy 1, dot with x 2, dx 3, dweight 3; residual add 1
          [](const RmsNormGrad& r) { return (r.residual ? 10.0 : 9.0) * d(r.rows) * d(r.hidden); },
          // 4 multiplies and 2 adds per pair of elements
          [](const Rope& r) { return 3.0 * d(r.rows) * d((r.heads + r.kv_heads) * r.head_dim); },
          // QKᵀ and PV, 2 FLOPs per pair and head element each (Dao et al. 2022).
          [](const Attention& a) {
            return 4.0 * d(a.batch) * d(a.heads * a.head_dim) * d(pairs(a.seq, a.causal));
          },
          // QKᵀ again, dV, dP, dQ, dK: five products, 2.5 × the forward pass (Dao 2023, §3.1).
          [](const AttentionGrad& a) {
            return 10.0 * d(a.batch) * d(a.heads * a.head_dim) * d(pairs(a.seq, a.causal));
          },
          [](const SwiGlu& s) { return 5.0 * d(s.rows) * d(s.ffn); },
          [](const SwiGluGrad& s) { return 11.0 * d(s.rows) * d(s.ffn); },
          [](const Add& a) { return d(a.elements); },
          [](const CrossEntropyStats& c) { return 4.0 * d(c.rows) * d(c.vocab); },
          [](const CrossEntropyGrad& c) { return c.gradient ? 4.0 * d(c.rows) * d(c.vocab) : d(c.rows); },
          [](const GradStats& g) { return 2.0 * d(g.elements); },
          [](const LossScale&) { return 10.0; },
          [](const AdamW& a) { return 15.0 * d(a.elements); },
          [](const Collective&) { return 0.0; },
          [](const Send&) { return 0.0; },
          [](const Recv&) { return 0.0; },
      },
      op);
  return {n};
}

// Every operand that op.h lists is read or written once; an operand that is updated in place is both.
Bytes bytes_moved(const Op& op) {
  const std::int64_t n = std::visit(
      Overload{
          [](const Load& l) { return (l.documents ? 3 : 2) * l.rows * 4; },
          [](const Gemm& g) {
            return (g.m * g.k + g.k * g.n) * size_of(g.in) +
                   g.m * g.n * size_of(g.out) * (g.accumulate ? 2 : 1) + (is_fp8(g.in) ? 2 * 4 : 0);
          },
          // The largest magnitude must be known before the first element can be written: two passes.
          [](const Quantize& q) {
            return q.rows * q.columns * (2 * size_of(q.from) + (q.straight ? 1 : 0) + (q.transposed ? 1 : 0)) +
                   2 * (1 + q.rows) * 4;
          },
          // ids, the rows that are looked up, the rows written
          [](const Embedding& e) { return e.rows * 4 + 2 * e.rows * e.hidden * size_of(e.dtype); },
          // ids, dx, and the table: rows touched are read and written; without `accumulate` all is zeroed
          [](const EmbeddingGrad& e) {
            return e.rows * 4 + e.rows * e.hidden * size_of(e.dtype) + 2 * e.rows * e.hidden * 4 +
                   (e.accumulate ? 0 : e.vocab * e.hidden * 4);
          },
          [](const RmsNorm& r) {
            // Quantised: the sum is read again, and instead of the result two of one byte are written.
            return (r.residual ? 4 : 2) * r.rows * r.hidden * size_of(r.dtype) + r.rows * 4 +
                   r.hidden * size_of(r.dtype) + (r.quantize ? 2 * r.rows * r.hidden + 2 * (1 + r.rows) * 4 : 0);
          },
          [](const RmsNormGrad& r) {
            return (r.residual ? 4 : 3) * r.rows * r.hidden * size_of(r.dtype) + r.rows * 4 +
                   r.hidden * (size_of(r.dtype) + (r.accumulate ? 8 : 4)) +
                   2 * norm_grad_blocks(r.rows) * r.hidden * 4;
          },
          [](const Rope& r) {
            return 2 * r.rows * (r.heads + r.kv_heads) * r.head_dim * size_of(r.dtype) +
                   r.seq * r.head_dim * 4 + (r.documents ? r.rows * 4 : 0);
          },
          [](const Attention& a) {
            const std::int64_t rows = a.batch * a.seq;
            return rows * (qkv_width(a.heads, a.kv_heads, a.head_dim) + a.heads * a.head_dim) *
                       size_of(a.dtype) +
                   rows * a.heads * 4 + (a.documents ? rows * 4 : 0);
          },
          [](const AttentionGrad& a) {
            const std::int64_t rows = a.batch * a.seq;
            return 2 * rows * (qkv_width(a.heads, a.kv_heads, a.head_dim) + a.heads * a.head_dim) *
                       size_of(a.dtype) +
                   3 * rows * a.heads * 4 + (a.documents ? rows * 4 : 0);  // lse, and delta written then read
          },
          // Quantised: operands are read twice, and the result is written twice, in one byte.
          [](const SwiGlu& s) {
            if (s.quantize) return s.rows * s.ffn * (4 * size_of(s.dtype) + 2) + 2 * (1 + s.rows) * 4;
            return 3 * s.rows * s.ffn * size_of(s.dtype);
          },
          [](const SwiGluGrad& s) {
            if (s.quantize) return s.rows * s.ffn * (6 * size_of(s.dtype) + 4) + 2 * (1 + s.rows) * 4;
            return 5 * s.rows * s.ffn * size_of(s.dtype);
          },
          [](const Add& a) { return 3 * a.elements * size_of(a.dtype); },
          [](const CrossEntropyStats& c) {
            return c.rows * c.vocab * size_of(c.dtype) + c.rows * (4 + 3 * 4);
          },
          [](const CrossEntropyGrad& c) {
            return (c.gradient ? 2 * c.rows * c.vocab * size_of(c.dtype) : 0) +
                   c.rows * (4 + c.shards * 3 * 4) + 2 * 8 + (c.scaled ? kLossScaling * 8 : 0);
          },
          [](const GradStats& g) { return g.elements * 4 + 3 * 8; },
          [](const LossScale&) -> std::int64_t { return (3 + kLossScaling) * 2 * 8; },
          // gradient read; m, v and the fp32 weight read and written; a low-precision weight written
          [](const AdamW& a) {
            if (a.stochastic) return a.elements * (4 + 3 * 2 * size_of(DType::bf16));
            return a.elements * (4 + 3 * 8 + (a.weights == DType::fp32 ? 0 : size_of(a.weights)));
          },
          [](const Collective& c) { return c.size.value; },
          [](const Send& s) { return s.size.value; },
          [](const Recv& r) { return r.size.value; },
      },
      op);
  return {n};
}

OpClass class_of(const Op& op) {
  if (std::holds_alternative<Gemm>(op) || std::holds_alternative<Attention>(op) || std::holds_alternative<AttentionGrad>(op))
    return OpClass::matrix;
  if (std::holds_alternative<Collective>(op)) return OpClass::collective;
  if (std::holds_alternative<Send>(op) || std::holds_alternative<Recv>(op)) return OpClass::transfer;
  return OpClass::pointwise;
}

bool is_transfer(const Op& op) { return class_of(op) >= OpClass::collective; }

std::string_view name_of(OpClass c) {
  constexpr std::string_view names[] = {"matrix", "pointwise", "collective", "transfer"};
  const auto i = static_cast<std::size_t>(c);
  return i < std::size(names) ? names[i] : "?";
}

}  // namespace llmplan
