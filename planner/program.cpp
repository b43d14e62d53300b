#include "planner/program.h"

#include <bit>
#include <type_traits>

namespace llmplan {

std::string_view name_of(Stream s) {
  switch (s) {
    case Stream::compute: return "compute";
    case Stream::comm: return "comm";
    case Stream::down: return "down";
    case Stream::up: return "up";
  }
  return "?";
}

std::string_view name_of(Phase p) {
  switch (p) {
    case Phase::forward: return "forward";
    case Phase::recompute: return "recompute";
    case Phase::backward: return "backward";
    case Phase::optimizer: return "optimizer";
  }
  return "?";
}

namespace {

// FNV-1a over 64-bit words instead of bytes, with a shift that carries high bits down again. Values
// go in field by field: neither padding nor byte order matters.
struct Hasher {
  std::uint64_t state = 0xcbf29ce484222325u;

  void word(std::uint64_t w) {
    state = (state ^ w) * 0x100000001b3u;
    state ^= state >> 29;
  }
  template <class T>
    requires(std::is_integral_v<T> || std::is_enum_v<T>)
  void add(T v) { word(static_cast<std::uint64_t>(v)); }
  void add(double v) { word(std::bit_cast<std::uint64_t>(v)); }
  void add(Bytes b) { word(static_cast<std::uint64_t>(b.value)); }
  void add(const std::string& s) {
    word(s.size());
    std::uint64_t w = 0;
    int filled = 0;
    for (unsigned char c : s) {
      w = w << 8 | c;
      if (++filled == 8) word(w), w = 0, filled = 0;
    }
    if (filled) word(w);
  }
  void add(const Ref& r) { all(r.buffer, r.offset, r.size); }
  template <class... T>
  void all(const T&... v) { (add(v), ...); }
};

// Structured bindings: a field that is added to an op and forgotten here does not compile.
struct HashOp {
  Hasher& h;
  void operator()(const Load& o) { auto& [a] = o; h.all(a); }
  void operator()(const Gemm& o) { auto& [a, b, c, d, e, f, g, i] = o; h.all(a, b, c, d, e, f, g, i); }
  void operator()(const Embedding& o) { auto& [a, b, c, d] = o; h.all(a, b, c, d); }
  void operator()(const EmbeddingGrad& o) { auto& [a, b, c, d, e] = o; h.all(a, b, c, d, e); }
  void operator()(const RmsNorm& o) { auto& [a, b, c, d, e] = o; h.all(a, b, c, d, e); }
  void operator()(const RmsNormGrad& o) { auto& [a, b, c, d, e] = o; h.all(a, b, c, d, e); }
  void operator()(const Rope& o) { auto& [a, b, c, d, e, f, g] = o; h.all(a, b, c, d, e, f, g); }
  void operator()(const Attention& o) { auto& [a, b, c, d, e, f, g] = o; h.all(a, b, c, d, e, f, g); }
  void operator()(const AttentionGrad& o) { auto& [a, b, c, d, e, f, g] = o; h.all(a, b, c, d, e, f, g); }
  void operator()(const SwiGlu& o) { auto& [a, b, c] = o; h.all(a, b, c); }
  void operator()(const SwiGluGrad& o) { auto& [a, b, c] = o; h.all(a, b, c); }
  void operator()(const Add& o) { auto& [a, b] = o; h.all(a, b); }
  void operator()(const CrossEntropyStats& o) { auto& [a, b, c, d] = o; h.all(a, b, c, d); }
  void operator()(const CrossEntropyGrad& o) {
    auto& [a, b, c, d, e, f, g, i] = o;
    h.all(a, b, c, d, e, f, g, i);
  }
  void operator()(const GradStats& o) { auto& [a, b] = o; h.all(a, b); }
  void operator()(const AdamW& o) { auto& [a, b, c, d] = o; h.all(a, b, c, d); }
  void operator()(const Collective& o) { auto& [a, b, c, d] = o; h.all(a, b, c, d); }
  void operator()(const Send& o) { auto& [a, b] = o; h.all(a, b); }
  void operator()(const Recv& o) { auto& [a, b] = o; h.all(a, b); }
};

void add(Hasher& h, const Buffer& buffer) {
  auto& [name, size, dtype, space, persistent, category] = buffer;
  h.all(name, size, dtype, space, persistent, category);
}

void add(Hasher& h, const Instr& instr) {
  auto& [op, stream, reads, writes, waits, phase, layer, micro_batch] = instr;
  h.add(op.index());
  std::visit(HashOp{h}, op);
  h.all(stream, phase, layer, micro_batch);
  h.add(reads.size());
  for (const Ref& r : reads) h.add(r);
  h.add(writes.size());
  for (const Ref& r : writes) h.add(r);
  h.add(waits.size());
  for (InstrId w : waits) h.add(w);
}

void add(Hasher& h, const Param& param) {
  auto& [name, full_shape, tp_dim, shape, begin, decay, counted] = param;
  h.all(name, tp_dim, begin, decay, counted);
  for (const auto* dims : {&full_shape, &shape}) {
    h.add(dims->size());
    for (std::int64_t d : *dims) h.add(d);
  }
}

}  // namespace

std::string digest(const std::vector<Program>& programs) {
  Hasher h;
  h.add(programs.size());
  for (const Program& p : programs) {
    auto& [stage, buffers, instrs, params, weights, gradients, moment1, moment2, master, rope, stats] = p;
    h.all(stage, buffers.size(), instrs.size(), params.size());
    for (const Buffer& b : buffers) add(h, b);
    for (const Instr& i : instrs) add(h, i);
    for (const Param& q : params) add(h, q);
    h.all(weights, gradients, moment1, moment2, master, rope, stats);
  }
  std::string hex(16, '0');
  for (int i = 0; i < 16; ++i) hex[i] = "0123456789abcdef"[h.state >> (60 - 4 * i) & 15];
  return hex;
}

}  // namespace llmplan
