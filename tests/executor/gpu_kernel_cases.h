// Every GPU kernel held against the CPU backend's kernel of the same op, which shares no code with it. The runner
// decides where the GPU's side runs: on the host in the block emulator, or on a device.
#pragma once

#include <doctest/doctest.h>

#include <cmath>
#include <cstring>
#include <random>
#include <set>
#include <vector>

#include "executor/cpu/kernels.h"
#include "executor/cuda/dispatch.h"
#include "executor/shard.h"

namespace llmplan::cuda::test {

// An operand: its values, and whether it is of the op's number type (else of a fixed type).
struct Operand {
  enum class Kind { typed, fp32, fp64, int32, bf16, e4m3, e5m2 } kind;
  std::vector<double> values;
};

inline std::vector<std::byte> to_bytes(const Operand& operand, DType t) {
  std::vector<std::byte> out;
  auto append = [&](const auto& v) {
    const auto* p = reinterpret_cast<const std::byte*>(&v);
    out.insert(out.end(), p, p + sizeof v);
  };
  for (double v : operand.values) switch (operand.kind) {
      case Operand::Kind::typed:
        if (t == DType::bf16) append(from_float<BFloat16>(static_cast<float>(v)));
        else if (t == DType::fp16) append(from_float<Float16>(static_cast<float>(v)));
        else append(static_cast<float>(v));
        break;
      case Operand::Kind::fp32: append(static_cast<float>(v)); break;
      case Operand::Kind::fp64: append(v); break;
      case Operand::Kind::int32: append(static_cast<std::int32_t>(v)); break;
      case Operand::Kind::bf16: append(from_float<BFloat16>(static_cast<float>(v))); break;
      case Operand::Kind::e4m3: append(from_float<E4M3>(static_cast<float>(v))); break;
      case Operand::Kind::e5m2: append(from_float<E5M2>(static_cast<float>(v))); break;
    }
  return out;
}
inline std::vector<double> to_values(const std::vector<std::byte>& bytes, const Operand& like, DType t) {
  std::vector<double> out(like.values.size());
  auto at = [&]<class T>(std::size_t i, T) {
    T v;
    std::memcpy(&v, bytes.data() + i * sizeof v, sizeof v);
    return v;
  };
  for (std::size_t i = 0; i < out.size(); ++i) switch (like.kind) {
      case Operand::Kind::typed:
        out[i] = t == DType::bf16 ? to_float(at(i, BFloat16{})) : t == DType::fp16 ? to_float(at(i, Float16{})) : at(i, 0.0f);
        break;
      case Operand::Kind::bf16: out[i] = to_float(at(i, BFloat16{})); break;
      case Operand::Kind::e4m3: out[i] = to_float(at(i, E4M3{})); break;
      case Operand::Kind::e5m2: out[i] = to_float(at(i, E5M2{})); break;
      case Operand::Kind::fp32: out[i] = at(i, 0.0f); break;
      case Operand::Kind::fp64: out[i] = at(i, 0.0); break;
      case Operand::Kind::int32: out[i] = at(i, std::int32_t{}); break;
    }
  return out;
}

inline std::mt19937 generator(7);
inline Operand normal(std::int64_t n, Operand::Kind kind = Operand::Kind::typed) {
  std::normal_distribution<float> draw;
  Operand o{kind, std::vector<double>(static_cast<std::size_t>(n))};
  // Values that bf16 and fp16 hold exactly, so that both sides start from the same numbers.
  for (double& v : o.values) v = std::ldexp(std::rint(std::ldexp(to_float(from_float<BFloat16>(draw(generator))), 14)), -14);
  return o;
}
inline Operand positive(std::int64_t n, Operand::Kind kind = Operand::Kind::fp32) {
  Operand o = normal(n, kind);
  for (double& v : o.values) v = std::abs(v) + 0.5;
  return o;
}
inline Operand zeros(std::int64_t n, Operand::Kind kind) { return {kind, std::vector<double>(static_cast<std::size_t>(n))}; }
inline Operand ids(std::int64_t n, std::int64_t below, std::int64_t from = 0) {
  std::uniform_int_distribution<std::int64_t> draw(from, below - 1);
  Operand o{Operand::Kind::int32, std::vector<double>(static_cast<std::size_t>(n))};
  for (double& v : o.values) v = static_cast<double>(draw(generator));
  return o;
}

struct Setting {
  Coordinates where;
  Optimizer optimizer;
  std::vector<Param> params;
  StepScalars step{3, 1e-2};
  std::int64_t flat_begin = 0;  // where a bucket begins
};

// Runs `make(dtype)` on both and returns, per written operand, the relative distance (L2).
template <class Runner, class Make>
std::vector<double> distances(Runner runner, Make make, DType t, std::vector<Operand> reads, std::vector<Operand> writes,
                              const Setting& setting = {}, DType on_cpu = DType::fp32) {
  auto run = [&](DType type, auto&& body) {
    std::vector<std::vector<std::byte>> in, out;
    for (auto& r : reads) in.push_back(to_bytes(r, type));
    for (auto& w : writes) out.push_back(to_bytes(w, type));
    body(make(type), in, out);
    std::vector<std::vector<double>> values;
    for (std::size_t i = 0; i < writes.size(); ++i) values.push_back(to_values(out[i], writes[i], type));
    return values;
  };
  auto cpu_values = run(on_cpu, [&](const Op& op, auto& in, auto& out) {
    cpu::ThreadPool pool(1);
    cpu::KernelContext context{&pool, setting.where, setting.step, &setting.optimizer, &setting.params, setting.flat_begin};
    std::vector<const std::byte*> in_at;
    std::vector<std::byte*> out_at;
    for (auto& b : in) in_at.push_back(b.data());
    for (auto& b : out) out_at.push_back(b.data());
    cpu::run(op, in_at, out_at, context);
  });
  auto gpu_values = run(t, [&](const Op& op, auto& in, auto& out) {
    std::vector<Segment> segments;
    for (const Param& p : setting.params)
      segments.push_back({p.begin, p.begin + p.elements(), p.decay, p.counted && (p.tp_dim >= 0 || setting.where.tp == 0),
                          noise_place(p, setting.where.tp)});
    AdamScalars scalars{setting.step.learning_rate, 1 - std::pow(setting.optimizer.beta1, setting.step.step),
                        1 - std::pow(setting.optimizer.beta2, setting.step.step), setting.step.step};
    runner(op, in, out, setting, segments, scalars);
  });
  std::vector<double> result;
  for (std::size_t i = 0; i < writes.size(); ++i) {
    double error = 0, size = 0;
    for (std::size_t k = 0; k < cpu_values[i].size(); ++k) {
      double d = gpu_values[i][k] == cpu_values[i][k] ? 0 : gpu_values[i][k] - cpu_values[i][k];  // also where both are infinite
      error += d * d;
      size += cpu_values[i][k] * cpu_values[i][k];
    }
    result.push_back(std::sqrt(error / std::max(size, 1e-300)));
  }
  return result;
}

// fp32: both round each operation to 2^-24 and sum in different orders. bf16: results are stored with 8 bits,
// a relative error of 2^-9 each, and products of two such results lose twice that. fp16: the same with 11 bits.
inline constexpr double kFp32 = 2e-6, kBf16 = 8e-3, kFp16 = 1e-3;
inline double tolerance(DType t) { return t == DType::fp32 ? kFp32 : t == DType::bf16 ? kBf16 : kFp16; }
inline void all_within(const std::vector<double>& distances, DType t, std::set<std::size_t> scratch = {}) {
  for (std::size_t i = 0; i < distances.size(); ++i) {
    if (scratch.count(i)) continue;
    CAPTURE(i);
    CHECK(distances[i] <= tolerance(t));
  }
}

using K = Operand::Kind;

// Normalisation and its gradient agree with the CPU's.
template <class Runner>
void check_norms(Runner runner) {
  for (DType t : {DType::fp32, DType::bf16, DType::fp16}) for (std::int64_t rows : {1, 3, 70}) for (std::int64_t h : {64, 2056}) {
        if (rows == 70 && h > 64) continue;
        CAPTURE(rows); CAPTURE(h); CAPTURE(name_of(t));
        for (bool residual : {false, true}) {
          std::vector<Operand> in{normal(rows * h), normal(h)};
          std::vector<Operand> out{zeros(rows * h, K::typed), zeros(rows, K::fp32)};
          if (residual) { in.push_back(normal(rows * h)); out.push_back(zeros(rows * h, K::typed)); }
          all_within(distances(runner, [&](DType d) { return RmsNorm{rows, h, residual, 1e-5, d}; }, t, in, out), t);
          std::vector<Operand> grad_in{normal(rows * h), positive(rows), normal(h), normal(rows * h)};
          if (residual) grad_in.push_back(normal(rows * h));
          for (bool accumulate : {false, true})
            all_within(distances(runner, [&](DType d) { return RmsNormGrad{rows, h, residual, accumulate, d}; }, t, grad_in,
                                 {zeros(rows * h, K::typed), normal(h, K::fp32), zeros(norm_grad_blocks(rows) * h, K::fp32)}),
                       t, {2});
        }
      }
}

// Rotation, SwiGLU and additions agree with the CPU's.
template <class Runner>
void check_pointwise(Runner runner) {
  for (DType t : {DType::fp32, DType::bf16, DType::fp16}) {
    CAPTURE(name_of(t));
    for (bool backward : {false, true})
      for (const int size : {32, 18, 24}) {  // of a head: pairs in whole vectors, an odd number of them, vectors in fp32 only
        Operand table = zeros(5 * size, K::fp32);
        for (int s = 0; s < 5; ++s) for (int i = 0; i < size / 2; ++i) {
            table.values[s * size + i] = std::cos(s * 0.3 * i);
            table.values[s * size + size / 2 + i] = std::sin(s * 0.3 * i);
          }
        all_within(distances(runner, [&](DType d) { return Rope{15, 5, 4, 2, size, backward, d}; }, t, {table}, {normal(15 * 8 * size)}), t);
        const Operand starts{K::int32, {0, 0, 2, 2, 2, 0, 0, 0, 0, 4, 0, 1, 2, 3, 4}};
        all_within(distances(runner, [&](DType d) { return Rope{15, 5, 4, 2, size, backward, d, true}; }, t, {table, starts}, {normal(15 * 8 * size)}), t);
      }
    all_within(distances(runner, [&](DType d) { return SwiGlu{7, 88, d}; }, t, {normal(7 * 176)}, {zeros(7 * 88, K::typed)}), t);
    all_within(distances(runner, [&](DType d) { return SwiGluGrad{7, 88, d}; }, t, {normal(7 * 176), normal(7 * 88)}, {zeros(7 * 176, K::typed)}), t);
    for (std::int64_t n : {1, 2048, 2049, 5003})
      all_within(distances(runner, [&](DType d) { return Add{n, d}; }, t, {normal(n), normal(n)}, {zeros(n, K::typed)}), t);
  }
}

// Embeddings agree with the CPU's, on the rank that holds an id and on the others.
template <class Runner>
void check_embeddings(Runner runner) {
  for (DType t : {DType::fp32, DType::bf16, DType::fp16}) for (int tp : {0, 1}) {
      Setting s;
      s.where.tp = tp;
      s.where.tp_size = 2;
      CAPTURE(tp);
      std::int64_t rows = 200, h = 72, vocab = 13;
      all_within(distances(runner, [&](DType d) { return Embedding{rows, h, vocab, d}; }, t, {ids(rows, 2 * vocab), normal(vocab * h)},
                           {zeros(rows * h, K::typed)}, s), t);
      for (bool accumulate : {false, true})
        all_within(distances(runner, [&](DType d) { return EmbeddingGrad{rows, h, vocab, accumulate, d}; }, t,
                             {ids(rows, 2 * vocab), normal(rows * h)}, {normal(vocab * h, K::fp32)}, s), t);
    }
}

// Cross entropy agrees with the CPU's, over shards, padding and rows without a target.
template <class Runner>
void check_cross_entropy(Runner runner) {
  for (DType t : {DType::fp32, DType::bf16, DType::fp16}) for (int tp : {0, 1}) {
      Setting s;
      s.where.tp = tp;
      s.where.tp_size = 2;
      CAPTURE(tp); CAPTURE(name_of(t));
      std::int64_t rows = 9, vocab = 700, total = 1391;  // the second shard is padded by 9 columns
      Operand targets = ids(rows, total, -2);
      targets.values[3] = -1;
      all_within(distances(runner, [&](DType d) { return CrossEntropyStats{rows, vocab, total, d}; }, t, {normal(rows * vocab), targets},
                           {zeros(rows * 3, K::fp32)}, s), t);
      Operand stats = zeros(2 * rows * 3, K::fp32);
      for (std::size_t i = 0; i < stats.values.size(); i += 3) stats.values[i] = 3, stats.values[i + 1] = 40, stats.values[i + 2] = 0.5;
      for (bool gradient : {false, true}) for (bool accumulate : {false, true})
          all_within(distances(runner, [&](DType d) { return CrossEntropyGrad{rows, vocab, total, 2, 100, gradient, accumulate, d}; }, t,
                               {targets, stats}, {normal(rows * vocab), normal(2, K::fp64)}, s), t);
    }
}

// Gradient norm and AdamW agree with the CPU's, on whole buckets and on slices, wherever a bucket begins.
template <class Runner>
void check_optimizer(Runner runner) {
  for (std::int64_t begin : {0, 1024}) for (int shards : {1, 2}) for (int rank = 0; rank < shards; ++rank) {
      Setting s;
      s.flat_begin = begin;
      s.where.dp = rank;
      s.where.dp_size = shards;
      s.where.world = shards;
      s.optimizer.clip = 0.5;
      Param first, second, norm;
      first.shape = {40, 25}; first.begin = begin; first.tp_dim = 0;
      second.shape = {7, 11}; second.begin = begin + 1000; second.tp_dim = 1;
      norm.shape = {33}; norm.begin = begin + 1080; norm.decay = false; norm.tp_dim = -1;
      for (Param* p : {&first, &second, &norm}) p->full_shape = p->shape;
      s.params = {first, second, norm};
      if (Param before; begin > 0) {  // of another bucket
        before.shape = before.full_shape = {20, 50};
        s.params.insert(s.params.begin(), before);
      }
      std::int64_t whole = 1152, slice = whole / shards;
      Operand g = normal(whole, K::fp32);
      for (auto i : {1077, 1078, 1079}) g.values[static_cast<std::size_t>(i)] = 0;
      for (std::int64_t i = 1113; i < whole; ++i) g.values[static_cast<std::size_t>(i)] = 0;
      Operand loss{K::fp64, {12.5, 20}}, stats{K::fp64, {100.0, 12.5, 20}};
      CAPTURE(shards); CAPTURE(rank);
      all_within(distances(runner, [&](DType) { return GradStats{slice, shards}; }, DType::fp32, {g, loss}, {zeros(3, K::fp64)}, s), DType::fp32);
      all_within(distances(runner, [&](DType) { return GradStats{slice, shards, true}; }, DType::fp32, {g}, {stats}, s), DType::fp32);
      Operand m = normal(slice, K::fp32), v = positive(slice), weights = normal(whole, K::fp32);
      for (std::int64_t i = 0; i < slice; ++i)
        if (g.values[static_cast<std::size_t>(i + rank * slice)] == 0) m.values[static_cast<std::size_t>(i)] = v.values[static_cast<std::size_t>(i)] = 0;
      all_within(distances(runner, [&](DType) { return AdamW{slice, shards, 20, DType::fp32}; }, DType::fp32, {g, stats}, {weights, m, v}, s), DType::fp32);
    }
}

// With a loss scale: a step that is taken and one that is skipped; and AdamW without a master, whose random bits are
// the same on both sides.
template <class Runner>
void check_optimizer_states(Runner runner) {
  Setting s;
  s.where.tp = 1;
  s.where.tp_size = 2;
  Param rows, columns;
  rows.name = "rows", rows.full_shape = {14, 30}, rows.shape = {7, 30}, rows.tp_dim = 0;
  columns.name = "columns", columns.full_shape = {9, 22}, columns.shape = {9, 11}, columns.tp_dim = 1, columns.begin = 210;
  s.params = {rows, columns};
  const std::int64_t n = 309;
  const Operand g = normal(n, K::fp32), stats{K::fp64, {100.0, 12.5, 20}};
  for (double apply : {1.0, 0.0}) {
    const Operand scaling{K::fp64, {65536, 3, 5, 1, apply, 1.0 / 1024, 1 - std::pow(s.optimizer.beta1, 5), 1 - std::pow(s.optimizer.beta2, 5)}};
    for (DType t : {DType::fp32, DType::fp16}) {
      std::vector<Operand> writes{normal(n), normal(n, K::fp32), positive(n)};
      if (t == DType::fp32) {
        all_within(distances(runner, [&](DType) { return AdamW{n, 1, 20, t, true}; }, t, {g, stats, scaling}, writes, s), t);
        continue;
      }
      writes.push_back(normal(n, K::fp32));
      writes[0].values = writes[3].values;  // weights are the rounded master
      auto types = distances(runner, [&](DType) { return AdamW{n, 1, 20, DType::fp16, true}; }, DType::fp16, {g, stats, scaling}, writes, s, DType::fp16);
      CHECK(types[0] <= 1e-4);
      for (std::size_t i : {1u, 2u, 3u}) CHECK(types[i] <= kFp32);
    }
    for (double sum : {3e10, static_cast<double>(INFINITY)})
      all_within(distances(runner, [&](DType) { return LossScale{4}; }, DType::fp32, {}, {{K::fp64, {sum, 1, 1}}, scaling}, s), DType::fp32);
  }
  auto stochastic = [&](DType) { return AdamW{n, 1, 20, DType::bf16, false, true, 77}; };
  // Both round each number to the same side, but where the fp32 results differ across a random threshold: some in 10^5.
  for (double d : distances(runner, stochastic, DType::fp32, {g, stats}, {normal(n, K::bf16), normal(n, K::bf16), positive(n, K::bf16)}, s))
    CHECK(d < 3e-4);
}

// Codes and factors are the CPU's: exactly, where the numbers to be rounded are; else but for a code in a thousand.
template <class Runner>
void check_quantization(Runner runner) {
  struct Case { std::int64_t rows, columns; bool straight, transposed; double scale; };
  for (DType to : {DType::fp8_e4m3, DType::fp8_e5m2})
    for (Case c : {Case{64, 256, true, true, 1}, Case{36, 132, true, false, 1e-6}, Case{100, 20, false, true, 3e4}, Case{4, 4, true, true, 0}}) {
      CAPTURE(c.rows); CAPTURE(c.scale);
      const K kind = to == DType::fp8_e4m3 ? K::e4m3 : K::e5m2;
      Operand x = normal(c.rows * c.columns, K::bf16);
      for (double& v : x.values) v = to_float(from_float<BFloat16>(static_cast<float>(v * c.scale)));
      std::vector<Operand> out;
      if (c.straight) out.push_back(zeros(c.rows * c.columns, kind));
      if (c.transposed) out.push_back(zeros(c.rows * c.columns, kind));
      out.push_back(zeros(1 + c.rows, K::fp32));
      for (double d : distances(runner, [&](DType) { return Quantize{c.rows, c.columns, c.straight, c.transposed, DType::bf16, to}; },
                                DType::bf16, {x}, out))
        CHECK(d == 0);
    }
  for (DType t : {DType::fp32, DType::bf16, DType::fp16}) {
    const std::int64_t rows = 44, h = 264;
    CAPTURE(name_of(t));
    const auto codes = [&](std::int64_t columns, K kind) { return zeros(rows * columns, kind); };
    for (bool residual : {false, true}) {
      std::vector<Operand> in{normal(rows * h), normal(h)}, out{codes(h, K::e4m3), zeros(rows, K::fp32)};
      if (residual) in.push_back(normal(rows * h)), out.push_back(zeros(rows * h, K::typed));
      out.push_back(codes(h, K::e4m3)), out.push_back(zeros(1 + rows, K::fp32));
      // In 16 bits the sum is rounded first; the CPU runs this in fp32, so codes differ where that crosses a threshold.
      const auto d = distances(runner, [&](DType type) { return RmsNorm{rows, h, residual, 1e-5, type, true}; }, t, in, out);
      for (std::size_t i = 0; i < d.size(); ++i) CHECK(d[i] <= (residual && t != DType::fp32 ? 0.02 : 3e-3));
    }
    for (double d : distances(runner, [&](DType type) { return SwiGlu{rows, h, type, true}; }, t, {normal(rows * 2 * h)},
                              {codes(h, K::e4m3), codes(h, K::e4m3), zeros(1 + rows, K::fp32)}))
      CHECK(d <= 3e-3);
    for (double d : distances(runner, [&](DType type) { return SwiGluGrad{rows, h, type, true}; }, t, {normal(rows * 2 * h), normal(rows * h)},
                              {codes(2 * h, K::e5m2), codes(2 * h, K::e5m2), zeros(1 + rows, K::fp32)}))
      CHECK(d <= 3e-3);
  }
}

// Attention and its gradient agree with the CPU's, within documents of awkward lengths too.
template <class Runner>
void check_attention(Runner runner) {
  struct Shape { std::int64_t batch, seq, heads, kv_heads, head_dim; DType t; bool documents = false; };
  for (Shape c : {Shape{2, 33, 4, 2, 32, DType::fp32}, Shape{1, 20, 3, 1, 80, DType::bf16}, Shape{2, 70, 2, 1, 64, DType::bf16},
                  Shape{1, 65, 2, 2, 96, DType::bf16}, Shape{1, 130, 2, 1, 128, DType::bf16}, Shape{1, 70, 2, 1, 64, DType::fp16},
                  Shape{2, 33, 4, 2, 32, DType::fp32, true}, Shape{2, 260, 2, 1, 64, DType::bf16, true}, Shape{1, 200, 1, 1, 128, DType::fp16, true}}) {
    CAPTURE(c.seq); CAPTURE(c.head_dim); CAPTURE(name_of(c.t));
    std::int64_t rows = c.batch * c.seq, packed = rows * (c.heads + 2 * c.kv_heads) * c.head_dim, out = rows * c.heads * c.head_dim;
    std::int64_t lse = c.batch * c.heads * c.seq;
    Operand qkv = normal(packed), dout = normal(out);
    Operand starts = zeros(rows, K::int32);
    std::vector<std::int32_t> start(static_cast<std::size_t>(rows));
    for (std::int64_t r = 0, first = 0; r < rows; ++r) {  // of 1, 2, 5, 3, 70 tokens and so on; others in the second sequence
      const std::int64_t t = r % c.seq;
      if (t == 0) first = 0;
      for (std::int64_t begin : {1, 3, 8, 11, 64, 81, 151, 192, 193, 255}) if (t == begin + r / c.seq * 3) first = t;
      start[static_cast<std::size_t>(r)] = static_cast<std::int32_t>(first);
      starts.values[static_cast<std::size_t>(r)] = static_cast<double>(first);
    }
    auto forward = [&](DType d) { return Attention{c.batch, c.seq, c.heads, c.kv_heads, c.head_dim, true, d, c.documents}; };
    std::vector<Operand> forward_in{qkv};
    if (c.documents) forward_in.push_back(starts);
    all_within(distances(runner, forward, c.t, forward_in, {zeros(out, K::typed), zeros(lse, K::fp32)}), c.t);
    // out and lse as the forward pass gives them, rounded to bf16 where stored so.
    cpu::ThreadPool pool(1);
    std::vector<float> q(qkv.values.begin(), qkv.values.end()), o(static_cast<std::size_t>(out)), l(static_cast<std::size_t>(lse));
    std::vector<const std::byte*> in{reinterpret_cast<const std::byte*>(q.data())};
    if (c.documents) in.push_back(reinterpret_cast<const std::byte*>(start.data()));
    std::vector<std::byte*> to{reinterpret_cast<std::byte*>(o.data()), reinterpret_cast<std::byte*>(l.data())};
    cpu::KernelContext context;
    context.pool = &pool;
    cpu::run(forward(DType::fp32), in, to, context);
    Operand saved{K::typed, {o.begin(), o.end()}}, saved_lse{K::fp32, {l.begin(), l.end()}};
    for (double& v : saved.values)
      if (c.t != DType::fp32)
        v = c.t == DType::bf16 ? to_float(from_float<BFloat16>(static_cast<float>(v))) : to_float(from_float<Float16>(static_cast<float>(v)));
    std::vector<Operand> backward_in{qkv, saved, saved_lse, dout};
    if (c.documents) backward_in.push_back(starts);
    all_within(distances(runner, [&](DType d) { return AttentionGrad{c.batch, c.seq, c.heads, c.kv_heads, c.head_dim, true, d, c.documents}; }, c.t,
                         backward_in, {zeros(packed, K::typed), zeros(lse, K::fp32)}), c.t);
  }
}

}  // namespace llmplan::cuda::test
