// Bytes of every operand, from the shapes in op.h.
#include "planner/verify.h"

namespace llmplan {
namespace {

using std::int64_t;

template <class... F>
struct Overload : F... {
  using F::operator()...;
};
template <class... F>
Overload(F...) -> Overload<F...>;

constexpr int64_t kFp32 = size_of(DType::fp32), kInt32 = size_of(DType::int32), kFp64 = size_of(DType::fp64);

int64_t packed_qkv(const auto& a) { return (a.heads + 2 * a.kv_heads) * a.head_dim * size_of(a.dtype); }

}  // namespace

OperandSizes operand_sizes(const Op& op) {
  return std::visit(
      Overload{
          [](const Load& l) -> OperandSizes { return {{}, {{l.rows * kInt32}, {l.rows * kInt32}}, {}}; },
          [](const Gemm& g) -> OperandSizes {
            return {{{g.m * g.k * size_of(g.in)}, {g.k * g.n * size_of(g.in)}}, {{g.m * g.n * size_of(g.out)}}, {}};
          },
          [](const Embedding& e) -> OperandSizes {
            const int64_t row = e.hidden * size_of(e.dtype);
            return {{{e.rows * kInt32}, {e.vocab * row}}, {{e.rows * row}}, {}};
          },
          [](const EmbeddingGrad& e) -> OperandSizes {
            return {{{e.rows * kInt32}, {e.rows * e.hidden * size_of(e.dtype)}}, {{e.vocab * e.hidden * kFp32}}, {}};
          },
          [](const RmsNorm& r) -> OperandSizes {
            const Bytes weight{r.hidden * size_of(r.dtype)}, x{r.rows * weight.value}, rstd{r.rows * kFp32};
            if (r.residual) return {{x, weight, x}, {x, rstd, x}, {}};
            return {{x, weight}, {x, rstd}, {}};
          },
          [](const RmsNormGrad& r) -> OperandSizes {
            const Bytes weight{r.hidden * size_of(r.dtype)}, x{r.rows * weight.value}, rstd{r.rows * kFp32};
            OperandSizes s{{x, rstd, weight, x}, {x, {r.hidden * kFp32}, {norm_grad_blocks(r.rows) * r.hidden * kFp32}}, {}};
            if (r.residual) s.reads.push_back(x);
            return s;
          },
          [](const Rope& r) -> OperandSizes {
            return {{{r.seq * r.head_dim * kFp32}}, {{r.rows * packed_qkv(r)}}, {}};
          },
          [](const Attention& a) -> OperandSizes {
            const int64_t rows = a.batch * a.seq;
            return {{{rows * packed_qkv(a)}},
                    {{rows * a.heads * a.head_dim * size_of(a.dtype)}, {rows * a.heads * kFp32}}, {}};
          },
          [](const AttentionGrad& a) -> OperandSizes {
            const int64_t rows = a.batch * a.seq;
            const Bytes qkv{rows * packed_qkv(a)}, out{rows * a.heads * a.head_dim * size_of(a.dtype)};
            const Bytes per_query{rows * a.heads * kFp32};
            return {{qkv, out, per_query, out}, {qkv, per_query}, {}};
          },
          [](const SwiGlu& s) -> OperandSizes {
            const int64_t n = s.rows * s.ffn * size_of(s.dtype);
            return {{{2 * n}}, {{n}}, {}};
          },
          [](const SwiGluGrad& s) -> OperandSizes {
            const int64_t n = s.rows * s.ffn * size_of(s.dtype);
            return {{{2 * n}, {n}}, {{2 * n}}, {}};
          },
          [](const Add& a) -> OperandSizes {
            const Bytes n{a.elements * size_of(a.dtype)};
            return {{n, n}, {n}, {}};
          },
          [](const CrossEntropyStats& c) -> OperandSizes {
            return {{{c.rows * c.vocab * size_of(c.dtype)}, {c.rows * kInt32}}, {{c.rows * 3 * kFp32}}, {}};
          },
          [](const CrossEntropyGrad& c) -> OperandSizes {
            return {{{c.rows * kInt32}, {c.shards * c.rows * 3 * kFp32}},
                    {{c.rows * c.vocab * size_of(c.dtype)}, {2 * kFp64}}, {}};
          },
          [](const GradStats& g) -> OperandSizes {
            return {{{g.elements * g.shards * kFp32}}, {{3 * kFp64}}, {{2 * kFp64}}};
          },
          [](const AdamW& a) -> OperandSizes {
            const int64_t n = a.elements;
            OperandSizes s{{{n * a.shards * kFp32}, {3 * kFp64}},
                           {{n * a.shards * size_of(a.weights)}, {n * kFp32}, {n * kFp32}}, {}};
            if (a.weights != DType::fp32) s.writes.push_back({n * kFp32});
            return s;
          },
          [](const Collective& c) -> OperandSizes {  // in place, where it can be
            if (c.kind == Collective::Kind::all_to_all) return {{c.size}, {c.size}, {}};
            return {{}, {c.size}, {}};
          },
          [](const Send& s) -> OperandSizes { return {{s.size}, {}, {}}; },
          [](const Recv& r) -> OperandSizes { return {{}, {r.size}, {}}; },
      },
      op);
}

}  // namespace llmplan
