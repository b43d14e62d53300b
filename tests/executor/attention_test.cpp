// Attention and its gradient against the textbook formula in fp64.
#include <doctest/doctest.h>

#include "executor/cpu/isa/table.h"
#include "executor/cpu/products.h"
#include "tests/executor/kernel_fixture.h"

namespace llmplan {
namespace {
using namespace test;

// Documents of 1, 2, 57, 4, 1, 35, 28, … tokens, a few more at first in each further sequence.
std::vector<std::int32_t> starts_of(const Attention& op) {
  std::vector<std::int32_t> starts;
  for (i64 b = 0; b < op.batch && op.documents; ++b)
    for (i64 t = 0, start = 0; t < op.seq; ++t) {
      for (const i64 begin : {1, 3, 60, 64, 65, 100, 128}) if (t == begin + 2 * b) start = t;
      starts.push_back(static_cast<std::int32_t>(start));
    }
  return starts;
}

struct Reference { Doubles out, lse, dqkv; };

Reference reference(const Attention& op, const Doubles& qkv, const Doubles& dout) {
  const i64 d = op.head_dim, width = (op.heads + 2 * op.kv_heads) * d, rows = op.batch * op.seq;
  const double scale = 1 / std::sqrt(static_cast<double>(d));
  Reference r{Doubles(rows * op.heads * d), Doubles(op.batch * op.heads * op.seq), Doubles(rows * width)};
  Doubles p(op.seq), dp(op.seq);
  const std::vector<std::int32_t> starts = starts_of(op);
  for (i64 b = 0; b < op.batch; ++b)
    for (i64 h = 0; h < op.heads; ++h) {
      const i64 kv = h / (op.heads / op.kv_heads);
      for (i64 i = 0; i < op.seq; ++i) {
        const i64 row = b * op.seq + i, n = op.causal ? i + 1 : op.seq, first = op.documents ? starts[row] : 0;
        const double* q = &qkv[row * width + h * d];
        const auto key = [&](i64 j) { return (b * op.seq + j) * width + (op.heads + kv) * d; };
        const auto value = [&](i64 j) { return (b * op.seq + j) * width + (op.heads + op.kv_heads + kv) * d; };
        double biggest = -1e300, sum = 0, mean = 0;
        for (i64 j = first; j < n; ++j) {
          p[j] = 0;
          for (i64 c = 0; c < d; ++c) p[j] += q[c] * qkv[key(j) + c] * scale;
          biggest = std::max(biggest, p[j]);
        }
        for (i64 j = first; j < n; ++j) sum += std::exp(p[j] - biggest);
        r.lse[(b * op.heads + h) * op.seq + i] = biggest + std::log(sum);
        const double* g = &dout[(row * op.heads + h) * d];
        for (i64 j = first; j < n; ++j) {
          p[j] = std::exp(p[j] - biggest) / sum;
          dp[j] = 0;
          for (i64 c = 0; c < d; ++c) {
            r.out[(row * op.heads + h) * d + c] += p[j] * qkv[value(j) + c];
            r.dqkv[value(j) + c] += p[j] * g[c];
            dp[j] += g[c] * qkv[value(j) + c];
          }
          mean += p[j] * dp[j];
        }
        for (i64 j = first; j < n; ++j)
          for (i64 c = 0; c < d; ++c) {
            r.dqkv[row * width + h * d + c] += p[j] * (dp[j] - mean) * qkv[key(j) + c] * scale;
            r.dqkv[key(j) + c] += p[j] * (dp[j] - mean) * q[c] * scale;
          }
      }
    }
  return r;
}

AttentionGrad grad_of(const Attention& op) { return {op.batch, op.seq, op.heads, op.kv_heads, op.head_dim, op.causal, op.dtype, op.documents}; }

TEST_CASE("the fp64 reference of attention's gradient agrees with finite differences") {
  for (const bool causal : {true, false}) {
    const Attention op{1, 5, 4, 2, 8, causal, DType::fp32};
    Doubles qkv = widen(random_floats(5 * 8 * 8, 1));
    const Doubles dout = widen(random_floats(5 * 4 * 8, 2));
    const Doubles gradient = reference(op, qkv, dout).dqkv;
    const auto loss = [&] {
      const Doubles o = reference(op, qkv, dout).out;
      double s = 0;
      for (std::size_t i = 0; i < o.size(); ++i) s += o[i] * dout[i];
      return s;
    };
    for (std::size_t i = 0; i < qkv.size(); i += 3) {
      const double at = qkv[i], step = 1e-5;
      qkv[i] = at + step; const double above = loss();
      qkv[i] = at - step; const double below = loss();
      qkv[i] = at;
      CHECK((above - below) / (2 * step) == doctest::Approx(gradient[i]).epsilon(1e-6).scale(1e-3));
    }
  }
}

const Attention kCases[] = {
    {1, 1, 1, 1, 8, true, DType::fp32},    {2, 7, 2, 1, 16, true, DType::fp32},   {1, 64, 4, 4, 32, true, DType::fp32},
    {1, 65, 4, 2, 40, true, DType::fp32},  {2, 130, 6, 2, 64, true, DType::fp32}, {1, 200, 3, 1, 24, true, DType::fp32},
    {1, 129, 2, 1, 128, true, DType::fp32}, {1, 70, 2, 2, 136, true, DType::fp32}, {1, 63, 2, 1, 64, false, DType::fp32},
    {2, 100, 4, 2, 48, false, DType::fp32}, {2, 200, 4, 2, 24, true, DType::fp32, true}, {1, 129, 2, 1, 64, true, DType::fp32, true}};

void check(const cpu::KernelTable& table, const Attention& op, int threads) {
  const i64 rows = op.batch * op.seq, width = (op.heads + 2 * op.kv_heads) * op.head_dim;
  const Floats qkv = random_floats(rows * width, 1), dout = random_floats(rows * op.heads * op.head_dim, 2);
  const Reference want = reference(op, widen(qkv), widen(dout));
  cpu::ThreadPool pool(threads);
  Floats o(dout.size(), NAN), lse(op.batch * op.heads * op.seq, NAN), delta(lse.size(), NAN), dqkv(qkv.size(), NAN);
  const std::vector<std::int32_t> documents = starts_of(op);
  const std::int32_t* starts = op.documents ? documents.data() : nullptr;
  cpu::attention(table, op, qkv.data(), starts, o.data(), lse.data(), pool);
  cpu::attention_grad(table, grad_of(op), qkv.data(), starts, o.data(), lse.data(), dout.data(), dqkv.data(), delta.data(), pool);
  CAPTURE(table.name); CAPTURE(op.seq); CAPTURE(op.heads); CAPTURE(op.kv_heads); CAPTURE(op.head_dim); CAPTURE(op.causal); CAPTURE(threads);
  // Scores of size sqrt(head_dim)·few carry 1e-6 of absolute error into the exponent; the rest is less.
  CHECK(largest_error(o, want.out) < 3e-6);
  CHECK(largest_error(lse, want.lse) < 1e-6);
  CHECK(relative_norm(dqkv, want.dqkv) < 3e-6);
  CHECK(largest_error(dqkv, want.dqkv) < 6e-6);
}

TEST_CASE("attention and its gradient agree with fp64: grouped queries, any head size, odd lengths, causal or not, documents") {
  for (const Attention& op : kCases)
    for (const int threads : {1, 3}) check(cpu::kernels(), op, threads);
}

TEST_CASE("every instruction set that this CPU has computes attention within rounding of fp64") {
  for (const char* isa : {"generic", "avx2", "avx512"})
    if (const cpu::KernelTable* table = cpu::kernels_for(isa))
      for (const Attention& op : {kCases[1], kCases[4], kCases[7], kCases[10]}) check(*table, op, 2);
}

TEST_CASE("large scores do not overflow attention") {
  const Attention op{1, 40, 1, 1, 16, true, DType::fp32};
  Floats qkv = random_floats(40 * 48, 1, 30.0), o(40 * 16), lse(40);
  Caller call;
  call(op, {in(qkv)}, {out(o), out(lse)});
  const Reference want = reference(op, widen(qkv), Doubles(40 * 16));
  // Scores reach some thousands, so their rounding moves the exponent by 1e-4 and more.
  CHECK(largest_error(o, want.out) < 3e-3);
  CHECK(largest_error(lse, want.lse) < 1e-6);
}

TEST_CASE("attention and its gradient have the same bits with 1, 2, 3 and 8 threads") {
  for (const Attention& op : kCases) {
    const i64 rows = op.batch * op.seq, width = (op.heads + 2 * op.kv_heads) * op.head_dim;
    const Floats qkv = random_floats(rows * width, 1), dout = random_floats(rows * op.heads * op.head_dim, 2);
    Floats first[3];
    for (const int threads : {1, 2, 3, 8}) {
      Caller call(threads);
      Floats got[3] = {Floats(dout.size()), Floats(op.batch * op.heads * op.seq), Floats(qkv.size())};
      Floats delta(got[1].size());
      std::vector<const std::byte*> forward{in(qkv)}, backward{in(qkv), in(got[0]), in(got[1]), in(dout)};
      const std::vector<std::int32_t> starts = starts_of(op);
      if (op.documents) forward.push_back(in(starts)), backward.push_back(in(starts));
      call(op, forward, {out(got[0]), out(got[1])});
      call(grad_of(op), backward, {out(got[2]), out(delta)});
      for (int i = 0; i < 3; ++i) {
        if (threads == 1) first[i] = got[i];
        else CHECK(same_bits(got[i], first[i]));
      }
    }
  }
}

}  // namespace
}  // namespace llmplan
