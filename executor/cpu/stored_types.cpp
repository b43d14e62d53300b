#include "executor/cpu/stored_types.h"

namespace llmplan::cpu {
namespace {

using i64 = std::int64_t;

// Every group of 16 floats starts on a cache line.
constexpr i64 aligned(i64 floats) { return (floats + 15) / 16 * 16; }

struct Finder {
  StoredTypes out;

  void read(std::size_t index, i64 elements, DType t) {
    if (t != DType::fp32) out.reads.push_back({index, elements, t});
  }
  void write(std::size_t index, i64 elements, DType t, bool updated = false) {
    if (t != DType::fp32) out.writes.push_back({index, elements, t, updated});
  }
  template <class O>
  void wide(O op) {
    op.dtype = DType::fp32;
    if constexpr (requires { op.quantize; }) op.quantize = false;
    out.wide = op;
  }
  void result(i64 rows, i64 columns, DType t, bool quantize, DType quantized) {
    write(0, rows * columns, quantize ? quantized : t);
    if (quantize) out.quantized = {rows, columns, quantized};
  }

  void operator()(const Gemm& g) {
    read(0, g.m * g.k, g.in), read(1, g.k * g.n, is_fp8(g.in) ? DType::fp8_e4m3 : g.in);
    if (is_fp8(g.in)) out.reads[0].factor = 2, out.reads[1].factor = 3;
    write(0, g.m * g.n, g.out, g.accumulate);
    Gemm same = g;
    same.in = same.out = DType::fp32;
    out.wide = same;
  }
  void operator()(const Quantize& q) {
    read(0, q.rows * q.columns, q.from);
    Quantize same = q;
    same.from = DType::fp32;
    out.wide = same;
  }
  void operator()(const Embedding& e) {
    if (e.hidden * size_of(e.dtype) % 4 == 0) return;  // rows of whole words are moved as they are
    read(1, e.vocab * e.hidden, e.dtype);
    write(0, e.rows * e.hidden, e.dtype);
    wide(e);
  }
  void operator()(const EmbeddingGrad& e) { read(1, e.rows * e.hidden, e.dtype), wide(e); }
  void operator()(const RmsNorm& r) {
    const i64 n = r.rows * r.hidden;
    read(0, n, r.dtype), read(1, r.hidden, r.dtype);
    result(r.rows, r.hidden, r.dtype, r.quantize, DType::fp8_e4m3);
    if (r.residual) read(2, n, r.dtype), write(2, n, r.dtype);
    wide(r);
  }
  void operator()(const RmsNormGrad& r) {
    const i64 n = r.rows * r.hidden;
    read(0, n, r.dtype), read(2, r.hidden, r.dtype), read(3, n, r.dtype);
    if (r.residual) read(4, n, r.dtype);
    write(0, n, r.dtype);
    wide(r);
  }
  void operator()(const Rope& r) { write(0, r.rows * (r.heads + 2 * r.kv_heads) * r.head_dim, r.dtype, true), wide(r); }
  void operator()(const Attention& a) {
    const i64 rows = a.batch * a.seq;
    read(0, rows * (a.heads + 2 * a.kv_heads) * a.head_dim, a.dtype);
    write(0, rows * a.heads * a.head_dim, a.dtype);
    wide(a);
  }
  void operator()(const AttentionGrad& a) {
    const i64 rows = a.batch * a.seq, qkv = rows * (a.heads + 2 * a.kv_heads) * a.head_dim, attn = rows * a.heads * a.head_dim;
    read(0, qkv, a.dtype), read(1, attn, a.dtype), read(3, attn, a.dtype);
    write(0, qkv, a.dtype);
    wide(a);
  }
  void operator()(const SwiGlu& s) { read(0, s.rows * 2 * s.ffn, s.dtype), result(s.rows, s.ffn, s.dtype, s.quantize, DType::fp8_e4m3), wide(s); }
  void operator()(const SwiGluGrad& s) {
    read(0, s.rows * 2 * s.ffn, s.dtype), read(1, s.rows * s.ffn, s.dtype);
    result(s.rows, 2 * s.ffn, s.dtype, s.quantize, DType::fp8_e5m2);
    wide(s);
  }
  void operator()(const Add& a) { read(0, a.elements, a.dtype), read(1, a.elements, a.dtype), write(0, a.elements, a.dtype), wide(a); }
  void operator()(const CrossEntropyStats& c) { read(0, c.rows * c.vocab, c.dtype), wide(c); }
  void operator()(const CrossEntropyGrad& c) {
    if (c.gradient) write(0, c.rows * c.vocab, c.dtype, true);
    wide(c);
  }
  void operator()(const Load&) {}
  void operator()(const GradStats&) {}
  void operator()(const LossScale&) {}
  void operator()(const AdamW&) {}
  void operator()(const Collective&) {}
  void operator()(const Send&) {}
  void operator()(const Recv&) {}
};

}  // namespace

std::int64_t StoredTypes::floats() const {
  i64 n = 0;
  for (const auto* list : {&reads, &writes})
    for (const StoredOperand& o : *list) n += aligned(o.elements);
  return n;
}

StoredTypes stored_types(const Op& op) {
  Finder finder;
  std::visit(finder, op);
  return std::move(finder.out);
}

}  // namespace llmplan::cpu
