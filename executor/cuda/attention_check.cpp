#include "executor/cuda/attention_check.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <random>

#include "executor/cuda/scalar.h"

namespace llmplan::cuda {
namespace {

using Bytes16 = std::vector<std::uint16_t>;

// Groups of heads that share a key head repeat up to three patterns of data, so that a reference for these alone judges
// all of a large batch. Neighbours differ: what is taken from another head, group or sequence shows.
struct Shape {
  std::int64_t batch, seq, heads, kv_heads, head_dim;
  DType dtype;
  std::int64_t group() const { return heads / kv_heads; }
  std::int64_t rows() const { return batch * seq; }
  std::int64_t qkv_row() const { return (heads + 2 * kv_heads) * head_dim; }
  std::int64_t out_row() const { return heads * head_dim; }
  // Of one pattern: a group's query heads, its key head and its value head, as a packed row of its own.
  std::int64_t pattern_row() const { return (group() + 2) * head_dim; }
  std::int64_t patterns() const { return std::min<std::int64_t>(3, batch * kv_heads); }
  std::int64_t pattern(std::int64_t sequence, std::int64_t kv_head) const { return (sequence + kv_head) % patterns(); }
};
template <class AnyOp>
Shape shape_of(const AnyOp& a) { return {a.batch, a.seq, a.heads, a.kv_heads, a.head_dim, a.dtype}; }

std::uint16_t narrow(DType t, float v) {
  const auto bits = [](auto x) { std::uint16_t b; std::memcpy(&b, &x, sizeof b); return b; };
  return t == DType::fp16 ? bits(from_float<Float16>(v)) : bits(from_float<BFloat16>(v));
}
float widen(DType t, std::uint16_t bits) {
  const auto as = [&]<class T>(T x) { std::memcpy(&x, &bits, sizeof x); return to_float(x); };
  return t == DType::fp16 ? as(Float16{}) : as(BFloat16{});
}

// The head of a packed row of `pattern_row` that head `h` of a packed row of qkv repeats, and of which pattern.
struct Place { std::int64_t pattern, head; };
Place place(const Shape& s, std::int64_t sequence, std::int64_t h) {
  if (h < s.heads) return {s.pattern(sequence, h / s.group()), h % s.group()};
  const std::int64_t kv = (h - s.heads) % s.kv_heads;
  return {s.pattern(sequence, kv), s.group() + (h - s.heads) / s.kv_heads};
}

class Memory {  // of the device
 public:
  Memory(Device& device, std::int64_t bytes) : device_(device), bytes_(static_cast<std::size_t>(std::max<std::int64_t>(bytes, 1))), at_(device, bytes_) {
    device_.fill(at_.get(), 0xff, bytes_);  // NaN: what nobody writes shows
  }
  template <class T>
  Memory(Device& device, const std::vector<T>& values) : Memory(device, static_cast<std::int64_t>(values.size() * sizeof(T))) {
    device_.transfer(at_.get(), values.data(), values.size() * sizeof(T));
  }
  template <class T>
  std::vector<T> read() const {
    std::vector<T> v(bytes_ / sizeof(T));
    device_.transfer(v.data(), at_.get(), v.size() * sizeof(T));
    return v;
  }
  void spoil() { device_.fill(at_.get(), 0xff, bytes_); }
  std::byte* get() const { return at_.get(); }

 private:
  Device& device_;
  std::size_t bytes_;
  DeviceArray<std::byte> at_;
};

class Stream {
 public:
  explicit Stream(Device& d) : device_(d), stream_(d, d.make_stream()), from_(d, d.make_event(true)), to_(d, d.make_event(true)) {}
  StreamHandle get() const { return stream_.get(); }
  template <class F>
  Seconds time(F work) {
    device_.record(from_.get(), get());
    work();
    device_.record(to_.get(), get());
    device_.synchronize(get());
    return device_.between(from_.get(), to_.get());
  }

 private:
  Device& device_;
  OwnedStream stream_;
  OwnedEvent from_, to_;
};

using Reads = std::vector<const std::byte*>;
using Writes = std::vector<std::byte*>;

void launch(Device& device, const Op& op, const Reads& reads, const Writes& writes, StreamHandle s) {
  device.launch(op, reads, writes, {}, s);
}

// Random numbers of the op's type, for all patterns: [pattern][token][columns].
Bytes16 random_numbers(const Shape& s, std::int64_t columns, unsigned seed) {
  std::mt19937 generator(seed);
  std::normal_distribution<float> draw;
  Bytes16 v(static_cast<std::size_t>(s.patterns() * s.seq * columns));
  for (std::uint16_t& x : v) x = narrow(s.dtype, draw(generator));
  return v;
}
std::vector<float> widened(const Shape& s, const Bytes16& values) {
  std::vector<float> v(values.size());
  std::transform(values.begin(), values.end(), v.begin(), [&](std::uint16_t x) { return widen(s.dtype, x); });
  return v;
}
// Every row of `heads` heads from the patterns' rows of `columns` numbers.
Bytes16 spread(const Shape& s, const Bytes16& patterns, std::int64_t columns, std::int64_t heads) {
  Bytes16 all(static_cast<std::size_t>(s.rows() * heads * s.head_dim));
  auto to = all.begin();
  for (std::int64_t b = 0; b < s.batch; ++b)
    for (std::int64_t t = 0; t < s.seq; ++t)
      for (std::int64_t h = 0; h < heads; ++h) {
        const Place p = place(s, b, h);
        to = std::copy_n(patterns.begin() + (p.pattern * s.seq + t) * columns + p.head * s.head_dim, s.head_dim, to);
      }
  return all;
}

// Distances of heads [first, first + count) of packed rows of `heads`.
Distance distance(const Shape& s, const Bytes16& got, std::int64_t heads, std::int64_t first, std::int64_t count, const std::vector<float>& reference,
                  std::int64_t columns) {
  Distance d;
  double error = 0, size = 0, worst = 0;
  for (std::int64_t b = 0; b < s.batch; ++b)
    for (std::int64_t t = 0; t < s.seq; ++t)
      for (std::int64_t h = first; h < first + count; ++h) {
        const Place p = place(s, b, h);
        const float* want = reference.data() + (p.pattern * s.seq + t) * columns + p.head * s.head_dim;
        const std::uint16_t* have = got.data() + ((b * s.seq + t) * heads + h) * s.head_dim;
        double e = 0, m = 0;
        for (std::int64_t i = 0; i < s.head_dim; ++i) {
          const float x = widen(s.dtype, have[i]);
          d.finite = d.finite && std::isfinite(x);
          e += (static_cast<double>(x) - want[i]) * (static_cast<double>(x) - want[i]);
          m += static_cast<double>(want[i]) * want[i];
        }
        error += e;
        size += m;
        worst = std::max(worst, e);
      }
  const double vectors = static_cast<double>(s.rows() * count);
  d.whole = std::sqrt(error / size);
  d.worst = std::sqrt(worst / (size / vectors));
  return d;
}

// Patterns as a problem of their own in fp32, whose kernels are the reference.
struct Reference {
  Memory qkv, out, lse;
  Reference(Device& device, const Shape& s, const std::vector<float>& patterns, Stream& stream)
      : qkv(device, patterns), out(device, s.patterns() * s.seq * s.group() * s.head_dim * 4), lse(device, s.patterns() * s.seq * s.group() * 4) {
    launch(device, Attention{s.patterns(), s.seq, s.group(), 1, s.head_dim, true, DType::fp32}, {qkv.get()}, {out.get(), lse.get()}, stream.get());
    device.synchronize(stream.get());
  }
};

// Runs the op by both sides, times them, and keeps what each wrote to its first operand. Before the library runs, all
// that it should write, and its workspace, is NaN.
struct Results { Bytes16 own, library; };
Results run_both(Device& device, AttentionLibrary& library, const Op& op, const Reads& reads, const std::vector<Memory*>& written, Stream& stream,
                 int runs, AttentionCheck& check) {
  Writes writes;
  for (Memory* m : written) writes.push_back(m->get());
  const Memory& result = *written.front();
  const auto fastest = [&](auto work) {
    const int warm_up = runs > 1 ? 2 : 0;
    Seconds best{1e30};
    for (int i = 0; i < warm_up + runs; ++i) {
      const Seconds t = stream.time(work);
      if (i >= warm_up) best = std::min(best, t);
    }
    return best;
  };
  Results r;
  check.own = fastest([&] { launch(device, op, reads, writes, stream.get()); });
  r.own = result.read<std::uint16_t>();
  for (int i = 0; i < 3; ++i) {
    for (Memory* m : written) m->spoil();
    library.run(op, reads, writes, stream.get());
    device.synchronize(stream.get());
    Bytes16 now = result.read<std::uint16_t>();
    if (i > 0 && now != r.library) check.same_bits = false;
    r.library = std::move(now);
  }
  check.library = fastest([&] { library.run(op, reads, writes, stream.get()); });
  return r;
}

AttentionCheck check_forward(Device& device, AttentionLibrary& library, const Op& op, const Shape& s, int runs) {
  Stream stream(device);
  const auto patterns = random_numbers(s, s.pattern_row(), 1);
  const Reference reference(device, s, widened(s, patterns), stream);
  const Memory qkv(device, spread(s, patterns, s.pattern_row(), s.heads + 2 * s.kv_heads));
  Memory out(device, s.rows() * s.out_row() * 2), lse(device, s.rows() * s.heads * 4);

  AttentionCheck check;
  const Results got = run_both(device, library, op, {qkv.get()}, {&out, &lse}, stream, runs, check);
  const auto want = reference.out.read<float>();
  const auto of = [&](const Bytes16& x) { return distance(s, x, s.heads, 0, s.heads, want, s.group() * s.head_dim); };
  check.parts = {{"out", of(got.own), of(got.library)}};

  // The logarithm that the backward pass subtracts, in fp32: as far from the reference as fp32 sums are.
  const auto lse_want = reference.lse.read<float>(), lse_got = lse.read<float>();
  Distance d;
  for (std::int64_t b = 0; b < s.batch; ++b)
    for (std::int64_t h = 0; h < s.heads; ++h)
      for (std::int64_t t = 0; t < s.seq; ++t) {
        const Place p = place(s, b, h);
        const double x = lse_got[static_cast<std::size_t>((b * s.heads + h) * s.seq + t)];
        const double y = lse_want[static_cast<std::size_t>((p.pattern * s.group() + p.head) * s.seq + t)];
        d.finite = d.finite && std::isfinite(x);
        d.whole = std::max(d.whole, std::abs(x - y));
      }
  constexpr double kLse = 5e-4;  // absolute, of values up to 30: fp32 products of a hundred terms, fast exponentials
  check.parts.push_back({"the softmax's logarithm", {kLse / kWholeFactor, 0, true}, d});
  return check;
}

AttentionCheck check_backward(Device& device, AttentionLibrary& library, const Op& op, const Shape& s, int runs) {
  Stream stream(device);
  const std::int64_t group_row = s.group() * s.head_dim;
  const auto patterns = random_numbers(s, s.pattern_row(), 1), dout_patterns = random_numbers(s, group_row, 2);
  const Reference reference(device, s, widened(s, patterns), stream);
  const Memory dout_reference(device, widened(s, dout_patterns)), delta_reference(device, s.patterns() * s.seq * s.group() * 4);
  const Memory dqkv_reference(device, s.patterns() * s.seq * s.pattern_row() * 4);
  launch(device, AttentionGrad{s.patterns(), s.seq, s.group(), 1, s.head_dim, true, DType::fp32},
         {reference.qkv.get(), reference.out.get(), reference.lse.get(), dout_reference.get()}, {dqkv_reference.get(), delta_reference.get()}, stream.get());
  device.synchronize(stream.get());

  const Memory qkv(device, spread(s, patterns, s.pattern_row(), s.heads + 2 * s.kv_heads));
  const Memory dout(device, spread(s, dout_patterns, group_row, s.heads));
  const Memory out(device, s.rows() * s.out_row() * 2), lse(device, s.rows() * s.heads * 4);
  launch(device, Attention{s.batch, s.seq, s.heads, s.kv_heads, s.head_dim, true, s.dtype}, {qkv.get()}, {out.get(), lse.get()}, stream.get());
  device.synchronize(stream.get());
  Memory dqkv(device, s.rows() * s.qkv_row() * 2), delta(device, s.rows() * s.heads * 4), workspace(device, std::get<AttentionGrad>(op).workspace);

  AttentionCheck check;
  const Results got = run_both(device, library, op, {qkv.get(), out.get(), lse.get(), dout.get()}, {&dqkv, &delta, &workspace}, stream, runs, check);
  const auto want = dqkv_reference.read<float>();
  const auto part = [&](const char* name, std::int64_t first, std::int64_t count) {
    const auto of = [&](const Bytes16& x) { return distance(s, x, s.heads + 2 * s.kv_heads, first, count, want, s.pattern_row()); };
    check.parts.push_back({name, of(got.own), of(got.library)});
  };
  part("dq", 0, s.heads);
  part("dk", s.heads, s.kv_heads);
  part("dv", s.heads + s.kv_heads, s.kv_heads);
  return check;
}

}  // namespace

AttentionCheck check_attention(Device& device, AttentionLibrary& library, const Op& op, int runs) {
  if (auto* forward = std::get_if<Attention>(&op)) return check_forward(device, library, op, shape_of(*forward), runs);
  return check_backward(device, library, op, shape_of(std::get<AttentionGrad>(op)), runs);
}

std::string wrong(const AttentionCheck& check) {
  for (const PartCheck& p : check.parts) {
    if (!p.library.finite) return fmt::format("{} holds numbers that are not finite", p.part);
    // Negated, so that nothing passes beside a result of llmplan's that is not a number.
    if (!(p.library.whole <= kWholeFactor * p.own.whole))
      return fmt::format("{} is off by {:.2g} where llmplan's is by {:.2g}", p.part, p.library.whole, p.own.whole);
    if (!(p.library.worst <= kWorstFactor * p.own.worst))
      return fmt::format("a vector of {} is off by {:.2g} where llmplan's are by {:.2g} at most", p.part, p.library.worst, p.own.worst);
  }
  return "";
}

}  // namespace llmplan::cuda
