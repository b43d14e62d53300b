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

namespace llmplan::cuda::test {

// An operand: its values, and whether it is of the op's number type (else of a fixed type).
struct Operand {
  enum class Kind { typed, fp32, fp64, int32 } kind;
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
        else append(static_cast<float>(v));
        break;
      case Operand::Kind::fp32: append(static_cast<float>(v)); break;
      case Operand::Kind::fp64: append(v); break;
      case Operand::Kind::int32: append(static_cast<std::int32_t>(v)); break;
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
      case Operand::Kind::typed: out[i] = t == DType::bf16 ? to_float(at(i, BFloat16{})) : at(i, 0.0f); break;
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
  // Values that bf16 holds exactly, so that both sides start from the same numbers.
  for (double& v : o.values) v = to_float(from_float<BFloat16>(draw(generator)));
  return o;
}
inline Operand positive(std::int64_t n) {
  Operand o = normal(n, Operand::Kind::fp32);
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
};

// Runs `make(dtype)` on both and returns, per written operand, the relative distance (L2).
template <class Runner, class Make>
std::vector<double> distances(Runner runner, Make make, DType t, std::vector<Operand> reads, std::vector<Operand> writes,
                              const Setting& setting = {}) {
  auto run = [&](DType type, auto&& body) {
    std::vector<std::vector<std::byte>> in, out;
    for (auto& r : reads) in.push_back(to_bytes(r, type));
    for (auto& w : writes) out.push_back(to_bytes(w, type));
    body(make(type), in, out);
    std::vector<std::vector<double>> values;
    for (std::size_t i = 0; i < writes.size(); ++i) values.push_back(to_values(out[i], writes[i], type));
    return values;
  };
  auto cpu_values = run(DType::fp32, [&](const Op& op, auto& in, auto& out) {
    cpu::ThreadPool pool(1);
    cpu::KernelContext context{&pool, setting.where, setting.step, &setting.optimizer, &setting.params};
    std::vector<const std::byte*> in_at;
    std::vector<std::byte*> out_at;
    for (auto& b : in) in_at.push_back(b.data());
    for (auto& b : out) out_at.push_back(b.data());
    cpu::run(op, in_at, out_at, context);
  });
  auto gpu_values = run(t, [&](const Op& op, auto& in, auto& out) {
    std::vector<Segment> segments;
    for (const Param& p : setting.params)
      segments.push_back({p.begin, p.begin + p.elements(), p.decay, p.counted && (p.tp_dim >= 0 || setting.where.tp == 0)});
    AdamScalars scalars{setting.step.learning_rate, 1 - std::pow(setting.optimizer.beta1, setting.step.step),
                        1 - std::pow(setting.optimizer.beta2, setting.step.step)};
    runner(op, in, out, setting, segments, scalars);
  });
  std::vector<double> result;
  for (std::size_t i = 0; i < writes.size(); ++i) {
    double error = 0, size = 0;
    for (std::size_t k = 0; k < cpu_values[i].size(); ++k) {
      double d = gpu_values[i][k] - cpu_values[i][k];
      error += d * d;
      size += cpu_values[i][k] * cpu_values[i][k];
    }
    result.push_back(std::sqrt(error / std::max(size, 1e-300)));
  }
  return result;
}

// fp32: both round each operation to 2^-24 and sum in different orders. bf16: results are stored with 8 bits,
// a relative error of 2^-9 each, and products of two such results lose twice that.
inline constexpr double kFp32 = 2e-6, kBf16 = 8e-3;
inline double tolerance(DType t) { return t == DType::fp32 ? kFp32 : kBf16; }
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
  for (DType t : {DType::fp32, DType::bf16}) for (std::int64_t rows : {1, 3, 70}) for (std::int64_t h : {64, 2056}) {
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
  for (DType t : {DType::fp32, DType::bf16}) {
    CAPTURE(name_of(t));
    for (bool backward : {false, true}) {
      Operand table = zeros(5 * 32, K::fp32);
      for (int s = 0; s < 5; ++s) for (int i = 0; i < 16; ++i) {
          table.values[s * 32 + i] = std::cos(s * 0.3 * i);
          table.values[s * 32 + 16 + i] = std::sin(s * 0.3 * i);
        }
      all_within(distances(runner, [&](DType d) { return Rope{15, 5, 4, 2, 32, backward, d}; }, t, {table}, {normal(15 * 8 * 32)}), t);
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
  for (DType t : {DType::fp32, DType::bf16}) for (int tp : {0, 1}) {
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
  for (DType t : {DType::fp32, DType::bf16}) for (int tp : {0, 1}) {
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

// Gradient norm and AdamW agree with the CPU's, on whole buffers and on slices.
template <class Runner>
void check_optimizer(Runner runner) {
  for (int shards : {1, 2}) for (int rank = 0; rank < shards; ++rank) {
      Setting s;
      s.where.dp = rank;
      s.where.dp_size = shards;
      s.where.world = shards;
      s.optimizer.clip = 0.5;
      Param first, second, norm;
      first.shape = {40, 25}; first.begin = 0; first.tp_dim = 0;
      second.shape = {7, 11}; second.begin = 1000; second.tp_dim = 1;
      norm.shape = {33}; norm.begin = 1080; norm.decay = false; norm.tp_dim = -1;
      for (Param* p : {&first, &second, &norm}) p->full_shape = p->shape;
      s.params = {first, second, norm};
      std::int64_t whole = 1152, slice = whole / shards;
      Operand g = normal(whole, K::fp32);
      for (auto i : {1077, 1078, 1079}) g.values[static_cast<std::size_t>(i)] = 0;
      for (std::int64_t i = 1113; i < whole; ++i) g.values[static_cast<std::size_t>(i)] = 0;
      Operand loss{K::fp64, {12.5, 20}}, stats{K::fp64, {100.0, 12.5, 20}};
      CAPTURE(shards); CAPTURE(rank);
      all_within(distances(runner, [&](DType) { return GradStats{slice, shards}; }, DType::fp32, {g, loss}, {zeros(3, K::fp64)}, s), DType::fp32);
      Operand m = normal(slice, K::fp32), v = positive(slice), weights = normal(whole, K::fp32);
      for (std::int64_t i = 0; i < slice; ++i)
        if (g.values[static_cast<std::size_t>(i + rank * slice)] == 0) m.values[static_cast<std::size_t>(i)] = v.values[static_cast<std::size_t>(i)] = 0;
      all_within(distances(runner, [&](DType) { return AdamW{slice, shards, 20, DType::fp32}; }, DType::fp32, {g, stats}, {weights, m, v}, s), DType::fp32);
    }
}

// Attention and its gradient agree with the CPU's.
template <class Runner>
void check_attention(Runner runner) {
  struct Shape { std::int64_t batch, seq, heads, kv_heads, head_dim; DType t; };
  for (Shape c : {Shape{2, 33, 4, 2, 32, DType::fp32}, Shape{1, 20, 3, 1, 80, DType::bf16}, Shape{2, 70, 2, 1, 64, DType::bf16},
                  Shape{1, 65, 2, 2, 96, DType::bf16}, Shape{1, 130, 2, 1, 128, DType::bf16}}) {
    CAPTURE(c.seq); CAPTURE(c.head_dim); CAPTURE(name_of(c.t));
    std::int64_t rows = c.batch * c.seq, packed = rows * (c.heads + 2 * c.kv_heads) * c.head_dim, out = rows * c.heads * c.head_dim;
    std::int64_t lse = c.batch * c.heads * c.seq;
    Operand qkv = normal(packed), dout = normal(out);
    auto forward = [&](DType d) { return Attention{c.batch, c.seq, c.heads, c.kv_heads, c.head_dim, true, d}; };
    all_within(distances(runner, forward, c.t, {qkv}, {zeros(out, K::typed), zeros(lse, K::fp32)}), c.t);
    // out and lse as the forward pass gives them, rounded to bf16 where stored so.
    cpu::ThreadPool pool(1);
    std::vector<float> q(qkv.values.begin(), qkv.values.end()), o(static_cast<std::size_t>(out)), l(static_cast<std::size_t>(lse));
    std::vector<const std::byte*> in{reinterpret_cast<const std::byte*>(q.data())};
    std::vector<std::byte*> to{reinterpret_cast<std::byte*>(o.data()), reinterpret_cast<std::byte*>(l.data())};
    cpu::KernelContext context;
    context.pool = &pool;
    cpu::run(forward(DType::fp32), in, to, context);
    Operand saved{K::typed, {o.begin(), o.end()}}, saved_lse{K::fp32, {l.begin(), l.end()}};
    for (double& v : saved.values) v = c.t == DType::bf16 ? to_float(from_float<BFloat16>(static_cast<float>(v))) : v;
    all_within(distances(runner, [&](DType d) { return AttentionGrad{c.batch, c.seq, c.heads, c.kv_heads, c.head_dim, true, d}; }, c.t,
                         {qkv, saved, saved_lse, dout}, {zeros(packed, K::typed), zeros(lse, K::fp32)}), c.t);
  }
}

}  // namespace llmplan::cuda::test
