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

// What a quantised result is made of: straight, transposed, and its factor with scratch.
std::vector<Bytes> quantized(int64_t elements, int64_t rows, bool straight, bool transposed) {
  std::vector<Bytes> out;
  if (straight) out.push_back({elements});
  if (transposed) out.push_back({elements});
  out.push_back({(1 + rows) * kFp32});
  return out;
}

int64_t packed_qkv(const auto& a) { return (a.heads + 2 * a.kv_heads) * a.head_dim * size_of(a.dtype); }

}  // namespace

OperandSizes operand_sizes(const Op& op) {
  return std::visit(
      Overload{
          [](const Load& l) -> OperandSizes {
            return {{}, std::vector<Bytes>(l.documents ? 3 : 2, {l.rows * kInt32}), {}};
          },
          [](const Gemm& g) -> OperandSizes {
            OperandSizes s{{{g.m * g.k * size_of(g.in)}, {g.k * g.n * size_of(g.in)}}, {{g.m * g.n * size_of(g.out)}}, {}};
            if (is_fp8(g.in)) s.reads.insert(s.reads.end(), 2, {kFp32});
            return s;
          },
          [](const Quantize& q) -> OperandSizes {
            const int64_t n = q.rows * q.columns;
            return {{{n * size_of(q.from)}}, quantized(n, q.rows, q.straight, q.transposed), {}};
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
            OperandSizes s{{x, weight}, {x, rstd}, {}};
            if (r.residual) s.reads.push_back(x), s.writes.push_back(x);
            if (r.quantize) {
              const std::vector<Bytes> q = quantized(r.rows * r.hidden, r.rows, true, true);
              s.writes[0] = q[0];
              s.writes.insert(s.writes.end(), q.begin() + 1, q.end());
            }
            return s;
          },
          [](const RmsNormGrad& r) -> OperandSizes {
            const Bytes weight{r.hidden * size_of(r.dtype)}, x{r.rows * weight.value}, rstd{r.rows * kFp32};
            OperandSizes s{{x, rstd, weight, x}, {x, {r.hidden * kFp32}, {norm_grad_blocks(r.rows) * r.hidden * kFp32}}, {}};
            if (r.residual) s.reads.push_back(x);
            return s;
          },
          [](const Rope& r) -> OperandSizes {
            OperandSizes s{{{r.seq * r.head_dim * kFp32}}, {{r.rows * packed_qkv(r)}}, {}};
            if (r.documents) s.reads.push_back({r.rows * kInt32});
            return s;
          },
          [](const Attention& a) -> OperandSizes {
            const int64_t rows = a.batch * a.seq;
            OperandSizes s{{{rows * packed_qkv(a)}},
                           {{rows * a.heads * a.head_dim * size_of(a.dtype)}, {rows * a.heads * kFp32}}, {}};
            if (a.documents) s.reads.push_back({rows * kInt32});
            return s;
          },
          [](const AttentionGrad& a) -> OperandSizes {
            const int64_t rows = a.batch * a.seq;
            const Bytes qkv{rows * packed_qkv(a)}, out{rows * a.heads * a.head_dim * size_of(a.dtype)};
            const Bytes per_query{rows * a.heads * kFp32};
            OperandSizes s{{qkv, out, per_query, out}, {qkv, per_query}, {}};
            if (a.documents) s.reads.push_back({rows * kInt32});
            if (a.workspace > 0) s.writes.push_back({a.workspace});
            return s;
          },
          [](const SwiGlu& s) -> OperandSizes {
            const int64_t n = s.rows * s.ffn * size_of(s.dtype);
            if (s.quantize) return {{{2 * n}}, quantized(s.rows * s.ffn, s.rows, true, true), {}};
            return {{{2 * n}}, {{n}}, {}};
          },
          [](const SwiGluGrad& s) -> OperandSizes {
            const int64_t n = s.rows * s.ffn * size_of(s.dtype);
            if (s.quantize) return {{{2 * n}, {n}}, quantized(2 * s.rows * s.ffn, s.rows, true, true), {}};
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
            OperandSizes s{{{c.rows * kInt32}, {c.shards * c.rows * 3 * kFp32}},
                           {{c.rows * c.vocab * size_of(c.dtype)}, {2 * kFp64}}, {}};
            if (c.scaled) s.reads.push_back({kLossScaling * kFp64});
            return s;
          },
          [](const GradStats& g) -> OperandSizes {
            return {{{g.elements * g.shards * kFp32}}, {{3 * kFp64}}, {{2 * kFp64}}};
          },
          [](const LossScale&) -> OperandSizes { return {{}, {{3 * kFp64}, {kLossScaling * kFp64}}, {}}; },
          [](const AdamW& a) -> OperandSizes {
            const int64_t n = a.elements;
            const int64_t moment = n * (a.stochastic ? size_of(a.weights) : kFp32);
            OperandSizes s{{{n * a.shards * kFp32}, {3 * kFp64}},
                           {{n * a.shards * size_of(a.weights)}, {moment}, {moment}}, {}};
            if (a.scaled) s.reads.push_back({kLossScaling * kFp64});
            if (a.weights != DType::fp32 && !a.stochastic) s.writes.push_back({n * kFp32});
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
