// Every op but products and attention, against plain fp64 loops written from op.h.
#include <doctest/doctest.h>

#include <algorithm>
#include <cstdlib>
#include <set>
#include <thread>

#include "costmodel/error.h"
#include "executor/cpu/isa/table.h"
#include "executor/cpu/scratch.h"
#include "executor/shard.h"
#include "tests/executor/kernel_fixture.h"

namespace llmplan {
namespace {
using namespace test;

// A handful of fp32 roundings in a row, relative to the result's size.
constexpr double kFewRoundings = 1e-6;
// Sums of some thousand terms whose roundings do not all point the same way.
constexpr double kLongSum = 4e-6;

const i64 kRows[] = {1, 3, 31, 32, 33, 200, 513, 600};
const i64 kWidths[] = {1, 7, 16, 48, 65, 256, 1000};

TEST_CASE("RMSNorm is x over its root mean square times the weight, with and without a residual added first") {
  Caller call;
  for (const i64 rows : kRows)
    for (const i64 h : kWidths)
      for (const bool residual : {false, true}) {
        const RmsNorm op{rows, h, residual, 1e-5, DType::fp32};
        const Floats x = random_floats(rows * h, 1), w = random_floats(h, 2), d = random_floats(rows * h, 3);
        Doubles y(rows * h), rstd(rows), sum(rows * h);
        for (i64 t = 0; t < rows; ++t) {
          double squares = 0;
          for (i64 i = 0; i < h; ++i) {
            sum[t * h + i] = static_cast<double>(x[t * h + i]) + (residual ? d[t * h + i] : 0.0f);
            squares += sum[t * h + i] * sum[t * h + i];
          }
          rstd[t] = 1 / std::sqrt(squares / static_cast<double>(h) + 1e-5);
          for (i64 i = 0; i < h; ++i) y[t * h + i] = sum[t * h + i] * rstd[t] * w[i];
        }
        Floats got_y(rows * h), got_rstd(rows), in_place = x;
        if (residual) call(op, {in(in_place), in(w), in(d)}, {out(got_y), out(got_rstd), out(in_place)});  // sum is x's own bytes
        else call(op, {in(x), in(w)}, {out(got_y), out(got_rstd)});
        CAPTURE(rows); CAPTURE(h); CAPTURE(residual);
        CHECK(largest_error(got_y, y) < kFewRoundings);
        CHECK(relative_norm(got_rstd, rstd) < kFewRoundings);
        if (residual) CHECK(largest_error(in_place, sum) < kFewRoundings);
      }
}

// loss = Σ dy·y; the closed form in fp64, itself held to finite differences below.
void norm_grad(i64 rows, i64 h, const Doubles& x, const Doubles& w, const Doubles& dy, Doubles& dx, Doubles& dw) {
  dx.assign(rows * h, 0), dw.assign(h, 0);
  for (i64 t = 0; t < rows; ++t) {
    double squares = 0, dot = 0;
    for (i64 i = 0; i < h; ++i) squares += x[t * h + i] * x[t * h + i];
    const double r = 1 / std::sqrt(squares / static_cast<double>(h) + 1e-5);
    for (i64 i = 0; i < h; ++i) dot += w[i] * dy[t * h + i] * x[t * h + i];
    for (i64 i = 0; i < h; ++i) {
      dx[t * h + i] = r * (w[i] * dy[t * h + i] - x[t * h + i] * r * r * dot / static_cast<double>(h));
      dw[i] += dy[t * h + i] * x[t * h + i] * r;
    }
  }
}

TEST_CASE("the fp64 reference of RMSNorm's gradient agrees with finite differences") {
  const i64 h = 5;
  Doubles x = widen(random_floats(h, 1)), w = widen(random_floats(h, 2)), dy = widen(random_floats(h, 3)), dx, dw;
  norm_grad(1, h, x, w, dy, dx, dw);
  const auto loss = [&] {
    double squares = 0, s = 0;
    for (double v : x) squares += v * v;
    for (i64 i = 0; i < h; ++i) s += dy[i] * x[i] * w[i] / std::sqrt(squares / static_cast<double>(h) + 1e-5);
    return s;
  };
  const double step = 1e-5;
  for (i64 i = 0; i < h; ++i)
    for (const bool weight : {false, true}) {
      double& p = weight ? w[i] : x[i];
      const double at = p;
      p = at + step; const double above = loss();
      p = at - step; const double below = loss();
      p = at;
      CHECK((above - below) / (2 * step) == doctest::Approx(weight ? dw[i] : dx[i]).epsilon(1e-8));
    }
}

TEST_CASE("RMSNorm's gradient, residual added in place, weight's gradient set or accumulated") {
  Caller call;
  for (const i64 rows : kRows)
    for (const i64 h : {i64{7}, i64{48}, i64{256}})
      for (const bool residual : {false, true})
        for (const bool accumulate : {false, true}) {
          const Floats x = random_floats(rows * h, 1), w = random_floats(h, 2), dy = random_floats(rows * h, 3);
          const Floats before = random_floats(h, 5);
          Floats dx = random_floats(rows * h, 4), dw = accumulate ? before : Floats(h, NAN);
          Doubles want_dx, want_dw;
          norm_grad(rows, h, widen(x), widen(w), widen(dy), want_dx, want_dw);
          for (i64 i = 0; residual && i < rows * h; ++i) want_dx[i] += dx[i];
          for (i64 i = 0; accumulate && i < h; ++i) want_dw[i] += before[i];
          Floats rstd(rows), partial(norm_grad_blocks(rows) * h, NAN);
          for (i64 t = 0; t < rows; ++t) {
            double squares = 0;
            for (i64 i = 0; i < h; ++i) squares += static_cast<double>(x[t * h + i]) * x[t * h + i];
            rstd[t] = static_cast<float>(1 / std::sqrt(squares / static_cast<double>(h) + 1e-5));
          }
          std::vector<const std::byte*> reads = {in(x), in(rstd), in(w), in(dy)};
          if (residual) reads.push_back(in(dx));
          call(RmsNormGrad{rows, h, residual, accumulate, DType::fp32}, reads, {out(dx), out(dw), out(partial)});
          CAPTURE(rows); CAPTURE(h); CAPTURE(residual); CAPTURE(accumulate);
          CHECK(largest_error(dx, want_dx) < kFewRoundings);
          CHECK(largest_error(dw, want_dw) < kLongSum);
        }
}

TEST_CASE("RoPE turns each pair (i, i + half) of q and k by its angle, leaves v alone, and backward undoes it") {
  Caller call;
  for (const i64 d : {8, 24, 32, 64, 128})
    for (const i64 rows : {1, 30, 300}) {
      const i64 seq = 10, heads = 4, kv = 2, width = (heads + 2 * kv) * d;
      Floats table(seq * d);
      Doubles angle(seq * d / 2);
      for (i64 t = 0; t < seq; ++t)
        for (i64 i = 0; i < d / 2; ++i) {
          angle[t * d / 2 + i] = static_cast<double>(t) * std::pow(10000.0, -2.0 * static_cast<double>(i) / static_cast<double>(d));
          table[t * d + i] = static_cast<float>(std::cos(angle[t * d / 2 + i]));
          table[t * d + d / 2 + i] = static_cast<float>(std::sin(angle[t * d / 2 + i]));
        }
      const Floats before = random_floats(rows * width, 1);
      Floats x = before;
      Doubles want = widen(before);
      for (i64 t = 0; t < rows; ++t)
        for (i64 head = 0; head < heads + kv; ++head)
          for (i64 i = 0; i < d / 2; ++i) {
            const double a = angle[t % seq * d / 2 + i];
            const i64 low = t * width + head * d + i, high = low + d / 2;
            want[low] = before[low] * std::cos(a) - before[high] * std::sin(a);
            want[high] = before[high] * std::cos(a) + before[low] * std::sin(a);
          }
      call(Rope{rows, seq, heads, kv, d, false, DType::fp32}, {in(table)}, {out(x)});
      CHECK(largest_error(x, want) < kFewRoundings);
      call(Rope{rows, seq, heads, kv, d, true, DType::fp32}, {in(table)}, {out(x)});
      CHECK(largest_error(x, widen(before)) < kFewRoundings);
    }
}

double sigmoid(double x) { return 1 / (1 + std::exp(-x)); }

TEST_CASE("SwiGLU and its gradient, in place too, agree with fp64 and finite differences") {
  Caller call;
  for (const i64 rows : {1, 5, 300})
    for (const i64 f : {1, 16, 40, 683}) {
      Floats x = random_floats(rows * 2 * f, 1, 3.0);
      x[0] = -100.0f, x[f] = 2;  // e^100 is not a float
      const Floats dy = random_floats(rows * f, 2);
      Doubles y(rows * f), dx(rows * 2 * f);
      for (i64 t = 0; t < rows; ++t)
        for (i64 i = 0; i < f; ++i) {
          const double g = x[t * 2 * f + i], u = x[t * 2 * f + f + i], d = dy[t * f + i];
          y[t * f + i] = g * sigmoid(g) * u;
          dx[t * 2 * f + f + i] = d * g * sigmoid(g);
          const double step = 1e-6;  // a central difference is exact to about 1e-10 here
          dx[t * 2 * f + i] = d * u * ((g + step) * sigmoid(g + step) - (g - step) * sigmoid(g - step)) / (2 * step);
        }
      Floats got(rows * f, NAN);
      call(SwiGlu{rows, f, DType::fp32}, {in(x)}, {out(got)});
      CHECK(largest_error(got, y) < kFewRoundings);
      call(SwiGluGrad{rows, f, DType::fp32}, {in(x), in(dy)}, {out(x)});
      CHECK(largest_error(x, dx) < kFewRoundings);
    }
}

TEST_CASE("Add is exact, into a third buffer or into either operand") {
  Caller call;
  for (const i64 n : {1, 15, 16, 17, 1000, 300001}) {
    const Floats a = random_floats(n, 1), b = random_floats(n, 2);
    Floats want(n), c(n), in_a = a, in_b = b;
    for (i64 i = 0; i < n; ++i) want[i] = a[i] + b[i];
    call(Add{n, DType::fp32}, {in(a), in(b)}, {out(c)});
    call(Add{n, DType::fp32}, {in(in_a), in(b)}, {out(in_a)});
    call(Add{n, DType::fp32}, {in(a), in(in_b)}, {out(in_b)});
    CHECK(same_bits(c, want));
    CHECK(same_bits(in_a, want));
    CHECK(same_bits(in_b, want));
  }
}

TEST_CASE("Embedding copies rows, zero for ids of other tp ranks; its gradient adds in row order, exactly") {
  Caller call;
  for (const int tp : {0, 1})
    for (const i64 h : {1, 17, 64, 300}) {
      const i64 rows = 500, vocab = 50;
      call.context.where.tp = tp;
      std::vector<std::int32_t> ids(rows);
      for (i64 t = 0; t < rows; ++t) ids[t] = static_cast<std::int32_t>(t * 37 % 101 == 100 ? 99 : t * 37 % 101);
      const Floats table = random_floats(vocab * h, 1), dx = random_floats(rows * h, 2), before = random_floats(vocab * h, 3);
      Floats want(rows * h, 0.0f), x(rows * h, NAN);
      for (i64 t = 0; t < rows; ++t)
        if (const i64 row = ids[t] - tp * vocab; row >= 0 && row < vocab)
          std::copy_n(&table[row * h], h, &want[t * h]);
      call(Embedding{rows, h, vocab, DType::fp32}, {in(ids), in(table)}, {out(x)});
      CHECK(same_bits(x, want));
      for (const bool accumulate : {false, true}) {
        Floats grad = accumulate ? before : Floats(vocab * h, 0.0f), got = accumulate ? before : Floats(vocab * h, NAN);
        for (i64 t = 0; t < rows; ++t)
          if (const i64 row = ids[t] - tp * vocab; row >= 0 && row < vocab)
            for (i64 i = 0; i < h; ++i) grad[row * h + i] += dx[t * h + i];
        call(EmbeddingGrad{rows, h, vocab, accumulate, DType::fp32}, {in(ids), in(dx)}, {out(got)});
        CHECK(same_bits(got, grad));
      }
    }
}

TEST_CASE("cross entropy over 1, 2 and 4 shards of a padded vocabulary: loss, count and gradient") {
  for (const i64 total : {10, 97, 1000})
    for (const i64 shards : {1, 2, 4}) {
      const i64 rows = 130, vocab = (total + shards - 1) / shards + (total == 97 ? 30 : 0), divisor = 777;
      const Floats logits = random_floats(rows * vocab * shards, 1, 4.0);  // [shards][rows][vocab]
      const auto logit = [&](i64 t, i64 v) { return static_cast<double>(logits[(v / vocab * rows + t) * vocab + v % vocab]); };
      std::vector<std::int32_t> targets(rows);
      for (i64 t = 0; t < rows; ++t) targets[t] = t % 7 == 3 ? -100 : static_cast<std::int32_t>(t * 31 % total);
      double loss = 0, count = 0;
      Doubles gradient(rows * vocab * shards, 0.0);
      for (i64 t = 0; t < rows; ++t) {
        if (targets[t] < 0) continue;
        double biggest = -1e300, sum = 0;
        for (i64 v = 0; v < total; ++v) biggest = std::max(biggest, logit(t, v));
        for (i64 v = 0; v < total; ++v) sum += std::exp(logit(t, v) - biggest);
        loss += std::log(sum) + biggest - logit(t, targets[t]);
        count += 1;
        for (i64 v = 0; v < total; ++v)
          gradient[(v / vocab * rows + t) * vocab + v % vocab] =
              (std::exp(logit(t, v) - biggest) / sum - (v == targets[t])) / static_cast<double>(divisor);
      }
      Caller call;
      Floats stats(shards * rows * 3);
      std::vector<Floats> shard(shards);
      for (i64 s = 0; s < shards; ++s) {
        call.context.where.tp = static_cast<int>(s);
        shard[s].assign(logits.begin() + s * rows * vocab, logits.begin() + (s + 1) * rows * vocab);
        Floats own(rows * 3, NAN);
        call(CrossEntropyStats{rows, vocab, total, DType::fp32}, {in(shard[s]), in(targets)}, {out(own)});
        std::copy(own.begin(), own.end(), stats.begin() + s * rows * 3);
      }
      Floats got;
      for (i64 s = 0; s < shards; ++s) {
        call.context.where.tp = static_cast<int>(s);
        for (const bool accumulate : {false, true}) {
          Floats x = shard[s];
          Doubles sum = {100, 10};
          call(CrossEntropyGrad{rows, vocab, total, shards, divisor, true, accumulate, DType::fp32}, {in(targets), in(stats)},
               {out(x), out(sum)});
          CHECK(sum[0] == doctest::Approx(loss + (accumulate ? 100 : 0)).epsilon(1e-6));  // the shards' sums are fp32
          CHECK(sum[1] == count + (accumulate ? 10 : 0));
          if (!accumulate) got.insert(got.end(), x.begin(), x.end());
          // Evaluation: the same loss, the logits untouched.
          Floats kept = shard[s];
          Doubles only = {100, 10};
          call(CrossEntropyGrad{rows, vocab, total, shards, divisor, false, accumulate, DType::fp32}, {in(targets), in(stats)},
               {out(kept), out(only)});
          CHECK(only == sum);
          CHECK(same_bits(kept, shard[s]));
        }
      }
      CAPTURE(total); CAPTURE(shards);
      CHECK(largest_error(got, gradient) < kFewRoundings);
    }
}

// Three tensors with a gap of padding, as ZeRO's slices leave it.
std::vector<Param> three_params() {
  std::vector<Param> p(3);
  p[0].name = "matrix", p[0].tp_dim = 0, p[0].shape = {100, 200}, p[0].begin = 0;
  p[1].name = "copy", p[1].tp_dim = 0, p[1].shape = {70, 100}, p[1].begin = 20000, p[1].counted = false;
  p[2].name = "norm", p[2].shape = {333}, p[2].begin = 27000, p[2].decay = false;
  return p;
}
constexpr i64 kFlat = 27400;  // 67 of padding

TEST_CASE("gradient statistics count every parameter once in the world") {
  const std::vector<Param> params = three_params();
  Floats g = random_floats(kFlat, 1);
  const auto squares = [&](i64 b, i64 e) { double s = 0; for (i64 i = b; i < e; ++i) s += static_cast<double>(g[i]) * g[i]; return s; };
  const double matrix = squares(0, 20000), norm = squares(27000, 27333);
  const Doubles loss = {12.5, 40};
  Doubles stats(3);
  Caller call;
  call.context.params = &params;
  const auto run = [&](int tp, int dp, bool last) {
    call.context.where.tp = tp, call.context.where.dp = dp;
    std::vector<const std::byte*> reads = {in(g)};
    if (last) reads.push_back(in(loss));
    call(GradStats{kFlat, 1}, reads, {out(stats)});
  };
  run(0, 0, true);
  CHECK(stats[0] == doctest::Approx(matrix + norm).epsilon(1e-13));
  CHECK(stats[1] == 12.5);
  CHECK(stats[2] == 40);
  run(1, 0, true);  // another tp rank: its part of the matrix, neither the norm nor the loss
  CHECK(stats[0] == doctest::Approx(matrix).epsilon(1e-13));
  CHECK(stats[1] == 0);
  CHECK(stats[2] == 0);
  run(0, 1, true);  // another replica: its loss only
  CHECK(stats[0] == 0);
  CHECK(stats[1] == 12.5);
  CHECK(stats[2] == 40);
  run(0, 0, false);  // not the last stage
  CHECK(stats[1] == 0);
}

// torch.optim.AdamW's single-tensor step, in fp64.
void adamw_reference(double& w, double& m, double& v, double g, double t, const Optimizer& o, double lr, bool decay) {
  if (decay) w *= 1 - lr * o.weight_decay;
  m = o.beta1 * m + (1 - o.beta1) * g;
  v = o.beta2 * v + (1 - o.beta2) * g * g;
  w -= lr / (1 - std::pow(o.beta1, t)) * m / (std::sqrt(v) / std::sqrt(1 - std::pow(o.beta2, t)) + o.eps);
}

TEST_CASE("AdamW's first hundred steps follow the fp64 reference; padding stays zero") {
  const std::vector<Param> params = three_params();
  Optimizer o;
  Caller call;
  call.context.params = &params, call.context.optimizer = &o;
  Floats w = random_floats(kFlat, 1, 0.02), m(kFlat), v(kFlat);
  for (i64 i = 27333; i < kFlat; ++i) w[i] = 0;
  Doubles want_w = widen(w), want_m(kFlat), want_v(kFlat);
  for (int t = 1; t <= 100; ++t) {
    Floats g = random_floats(kFlat, 100 + t, t < 50 ? 1e-3 : 1e-1);  // later ones are clipped
    for (i64 i = 27333; i < kFlat; ++i) g[i] = 0;
    call.context.step = {t, 1e-3 * t / 100};
    double squares = 0;
    for (float x : g) squares += static_cast<double>(x) * x;
    const Doubles stats = {squares, 0, 80};
    call(AdamW{kFlat, 1, 100, DType::fp32}, {in(g), in(stats)}, {out(w), out(m), out(v)});
    const double correction = 100.0 / 80, norm = std::sqrt(squares) * correction;
    const double scale = correction * std::min(1.0, o.clip / (norm + 1e-6));
    for (i64 i = 0; i < 27333; ++i)
      adamw_reference(want_w[i], want_m[i], want_v[i], g[i] * scale, t, o, call.context.step.learning_rate, i < 27000);
  }
  CHECK(relative_norm(w, want_w) < 2e-6);  // a hundred roundings of the weight at 2⁻²⁴, random signs: 6e-7
  CHECK(relative_norm(m, want_m) < 2e-6);
  CHECK(relative_norm(v, want_v) < 2e-6);
  for (i64 i = 27333; i < kFlat; ++i) REQUIRE((w[i] == 0 && m[i] == 0 && v[i] == 0));
}

TEST_CASE("AdamW and the gradient norm of two shards are those of the whole, bit by bit and to rounding") {
  const std::vector<Param> params = three_params();
  Optimizer o;
  Caller call;
  call.context.params = &params, call.context.optimizer = &o;
  call.context.step = {3, 1e-3};
  const Floats g = random_floats(kFlat, 1);
  const Floats w0 = random_floats(kFlat, 2), m0 = random_floats(kFlat, 3, 0.1);
  Floats v0 = random_floats(kFlat, 4, 0.1);
  for (float& x : v0) x = std::abs(x);
  Floats w = w0, m = m0, v = v0;
  Doubles whole(3);
  call(GradStats{kFlat, 1}, {in(g)}, {out(whole)});
  const Doubles stats = {whole[0], 0, 5};
  call(AdamW{kFlat, 1, 5, DType::fp32}, {in(g), in(stats)}, {out(w), out(m), out(v)});
  Floats sharded = w0;
  double squares = 0;
  const i64 half = kFlat / 2;
  for (int rank = 0; rank < 2; ++rank) {
    call.context.where.dp = rank;
    Floats mr(m0.begin() + rank * half, m0.begin() + (rank + 1) * half), vr(v0.begin() + rank * half, v0.begin() + (rank + 1) * half);
    Doubles part(3);
    call(GradStats{half, 2}, {in(g)}, {out(part)});
    squares += part[0];
    call(AdamW{half, 2, 5, DType::fp32}, {in(g), in(stats)}, {out(sharded), out(mr), out(vr)});
    CHECK(same_bits(mr, Floats(m.begin() + rank * half, m.begin() + (rank + 1) * half)));
    CHECK(same_bits(vr, Floats(v.begin() + rank * half, v.begin() + (rank + 1) * half)));
  }
  CHECK(same_bits(sharded, w));
  CHECK(squares == doctest::Approx(whole[0]).epsilon(1e-14));
}

TEST_CASE("AdamW and the gradient norm, bucket by bucket and slice by slice, are those of the whole, bit by bit and to rounding") {
  const std::vector<Param> params = three_params();
  Optimizer o;
  Caller call;
  call.context.params = &params, call.context.optimizer = &o;
  call.context.step = {3, 1e-3};
  const Floats g = random_floats(kFlat, 1), w0 = random_floats(kFlat, 2), m0 = random_floats(kFlat, 3, 0.1);
  Floats w = w0, m = m0, v(kFlat, 0.01F);
  Doubles whole(3);
  const Doubles loss = {12.5, 40};
  call(GradStats{kFlat, 1}, {in(g), in(loss)}, {out(whole)});
  call(AdamW{kFlat, 1, 50, DType::fp32}, {in(g), in(whole)}, {out(w), out(m), out(v)});

  const std::vector<Bucket> buckets = {{0, 7000}, {7000, 13400}, {20400, 7000}};  // a border inside each matrix
  Floats again = w0;
  double squares = 0;
  for (int rank = 0; rank < 2; ++rank) {
    call.context.where.dp = rank;
    // What this rank owns, one slice after another.
    Floats own_m(kFlat / 2), own_v(kFlat / 2, 0.01F);
    for (i64 at = 0; at < kFlat; ++at)
      if (const OwnedElement e = owner_of(at, buckets, 2); e.dp_rank == rank) own_m[e.index] = m0[at];
    Doubles stats(3);
    for (std::size_t k = 0; k < buckets.size(); ++k) {
      const Bucket& b = buckets[k];
      call.context.flat_begin = b.begin;
      const Floats bucket(g.begin() + b.begin, g.begin() + b.begin + b.elements);
      std::vector<const std::byte*> reads = {in(bucket)};
      if (k == 0) reads.push_back(in(loss));
      call(GradStats{b.elements / 2, 2, k > 0}, reads, {out(stats)});
      Floats weights(again.begin() + b.begin, again.begin() + b.begin + b.elements);
      Floats bm(own_m.begin() + b.begin / 2, own_m.begin() + (b.begin + b.elements) / 2);
      Floats bv(own_v.begin() + b.begin / 2, own_v.begin() + (b.begin + b.elements) / 2);
      call(AdamW{b.elements / 2, 2, 50, DType::fp32}, {in(bucket), in(whole)}, {out(weights), out(bm), out(bv)});
      std::copy(weights.begin(), weights.end(), again.begin() + b.begin);
      std::copy(bm.begin(), bm.end(), own_m.begin() + b.begin / 2);
      std::copy(bv.begin(), bv.end(), own_v.begin() + b.begin / 2);
    }
    squares += stats[0];
    CHECK(stats[1] == 12.5);
    CHECK(stats[2] == 40);
    int wrong = 0;
    for (i64 at = 0; at < kFlat; ++at)
      if (const OwnedElement e = owner_of(at, buckets, 2); e.dp_rank == rank) wrong += own_m[e.index] != m[at] || own_v[e.index] != v[at];
    CHECK(wrong == 0);
  }
  CHECK(same_bits(again, w));
  CHECK(squares == doctest::Approx(whole[0]).epsilon(1e-14));
}

TEST_CASE("every element of the flat order has one owner and one place among what he owns") {
  const std::vector<Bucket> buckets = {{0, 8}, {8, 24}, {32, 16}};
  for (const i64 shards : {1, 2, 4, 8}) {
    std::set<std::pair<i64, i64>> places;
    for (i64 at = 0; at < 48; ++at) {
      const OwnedElement e = owner_of(at, buckets, shards);
      CHECK(e.dp_rank < shards);
      CHECK(e.index < 48 / shards);
      CHECK(places.emplace(e.dp_rank, e.index).second);
      const OwnedElement last = owner_of(at + e.run - 1, buckets, shards);  // the run is his to its end
      CHECK(last.dp_rank == e.dp_rank);
      CHECK(last.index == e.index + e.run - 1);
    }
  }
}

TEST_CASE("exp and exp2 are within 2 units in the last place, and flush and saturate as documented") {
  for (const char* isa : {"generic", "avx2", "avx512"}) {
    const cpu::KernelTable* table = cpu::kernels_for(isa);
    if (!table) continue;
    CAPTURE(isa);
    Floats x, y;
    for (int i = -8700; i <= 8700; ++i) x.push_back(static_cast<float>(i) * 0.01f + 1e-5f * static_cast<float>(i % 17));
    for (int i = -1000; i <= 1000; ++i) x.push_back(static_cast<float>(i) * 1e-6f);
    y.resize(x.size());
    const auto worst = [&](auto reference) {
      double ulps = 0;
      for (std::size_t i = 0; i < x.size(); ++i) {
        const double want = reference(static_cast<double>(x[i]));
        const float near = static_cast<float>(want);
        ulps = std::max(ulps, std::abs(y[i] - want) / (std::nextafter(near, HUGE_VALF) - near));
      }
      return ulps;
    };
    table->exp(x.data(), y.data(), static_cast<i64>(x.size()));
    CHECK(worst([](double v) { return std::exp(v); }) < 2);
    table->exp2(x.data(), y.data(), static_cast<i64>(x.size()));
    CHECK(worst([](double v) { return std::exp2(v); }) < 2);
    const Floats edge = {-HUGE_VALF, -1e30f, -200.0f, 0.0f, 200.0f, HUGE_VALF, NAN};
    Floats e(edge.size());
    for (const auto function : {table->exp, table->exp2}) {
      function(edge.data(), e.data(), static_cast<i64>(edge.size()));
      CHECK(e[0] == 0); CHECK(e[1] == 0); CHECK(e[2] == 0);
      CHECK(e[3] == 1);
      CHECK(e[4] > 1e38f); CHECK(std::isfinite(e[4])); CHECK(e[5] == e[4]);
      CHECK(std::isnan(e[6]));
    }
  }
}

TEST_CASE("an op takes the scratch memory that kernel_scratch says, and gives it back with its threads") {
  const Op ops[] = {Gemm{100, 3000, 700, false, true, false, DType::fp32, DType::fp32},
                    Gemm{2000, 60, 90, true, false, false, DType::fp32, DType::fp32},
                    Attention{2, 300, 4, 2, 40, true, DType::fp32}, GradStats{0, 1}, SwiGlu{400, 300, DType::fp32}};
  const i64 before = cpu::scratch_held();
  for (const Op& op : ops)
    std::thread([&] {  // a fresh thread: nothing held from earlier ops
      Caller call(3);
      std::vector<Floats> memory(4, Floats(2200000, 0.5f));
      call(op, {in(memory[0]), in(memory[1])}, {out(memory[2]), out(memory[3])});
      const cpu::KernelScratch most = cpu::kernel_scratch(op);
      const i64 taken = cpu::scratch_held() - before;
      CHECK(taken <= most.shared.value + 3 * most.per_thread.value);
      CHECK(taken >= most.shared.value + most.per_thread.value);  // idle threads take none
    }).join();
  CHECK(cpu::scratch_held() == before);
}

TEST_CASE("a type that is no floating point is refused with E0510, an unknown instruction set has no table") {
  Caller call;
  Floats a(4), b(4), c(4);
  try {
    call(Add{4, DType::int32}, {in(a), in(b)}, {out(c)});
    FAIL("not refused");
  } catch (const Error& e) {
    CHECK(e.code == "E0510");
    CHECK(!e.hint.empty());
  }
  CHECK(cpu::kernels_for("sse9") == nullptr);
  CHECK(cpu::kernels_for("generic") != nullptr);
  CHECK(cpu::kernels_for(cpu::instruction_set()) == &cpu::kernels());
}

}  // namespace
}  // namespace llmplan
