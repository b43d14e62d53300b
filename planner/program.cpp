#include "planner/program.h"

#include <bit>
#include <type_traits>

#include "costmodel/op_fields.h"

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

void add(Hasher& h, const Op& op) {
  h.add(op.index());
  std::visit(
      [&h](const auto& o) {
        if constexpr (std::is_same_v<std::decay_t<decltype(o)>, Collective>) h.add(o.kind);
        for_each_field(o, [&h](const char*, const auto& field) { h.add(field); });
      },
      op);
}

// Structured bindings: a field that is added to a struct and forgotten here does not compile.
void add(Hasher& h, const Buffer& buffer) {
  auto& [name, size, dtype, space, persistent, category] = buffer;
  h.all(name, size, dtype, space, persistent, category);
}

void add(Hasher& h, const Instr& instr) {
  auto& [op, stream, reads, writes, waits, phase, layer, micro_batch] = instr;
  add(h, op);
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

std::uint64_t hash_of(const Op& op) {
  Hasher h;
  add(h, op);
  return h.state;
}

std::string digest(const std::vector<Program>& programs) {
  Hasher h;
  h.add(programs.size());
  for (const Program& p : programs) {
    auto& [stage, buffers, instrs, params, buckets, weights, gradients, moment1, moment2, master, rope, stats, scaling] = p;
    h.all(stage, buffers.size(), instrs.size(), params.size());
    for (const Buffer& b : buffers) add(h, b);
    for (const Instr& i : instrs) add(h, i);
    for (const Param& q : params) add(h, q);
    for (const Bucket& k : buckets) h.all(k.begin, k.elements);
    h.all(weights, gradients, moment1, moment2, master, rope, stats, scaling);
  }
  std::string hex(16, '0');
  for (int i = 0; i < 16; ++i) hex[i] = "0123456789abcdef"[h.state >> (60 - 4 * i) & 15];
  return hex;
}

}  // namespace llmplan
