#include <doctest/doctest.h>

#include <cmath>

#include "executor/cpu/isa/table.h"
#include "executor/cpu/products.h"
#include "tests/executor/kernel_fixture.h"

namespace llmplan {
namespace {
using namespace test;

struct Case { Floats a, b, c; Doubles want; double magnitude; };  // magnitude: largest Σ|a||b|

Case make(const Gemm& op) {
  Case t{random_floats(op.m * op.k, 1), random_floats(op.k * op.n, 2), random_floats(op.m * op.n, 3), {}, 0};
  t.want.resize(t.c.size());
  Doubles row(op.n), size(op.n);
  for (i64 i = 0; i < op.m; ++i) {
    for (i64 j = 0; j < op.n; ++j) row[j] = op.accumulate ? t.c[i * op.n + j] : 0.0f, size[j] = 0;
    for (i64 p = 0; p < op.k; ++p) {
      const double x = op.a_transposed ? t.a[p * op.m + i] : t.a[i * op.k + p];
      for (i64 j = 0; j < op.n; ++j) {
        const double y = op.b_transposed ? t.b[j * op.k + p] : t.b[p * op.n + j];
        row[j] += x * y;
        size[j] += std::abs(x * y);
      }
    }
    for (i64 j = 0; j < op.n; ++j) {
      t.want[i * op.n + j] = row[j];
      t.magnitude = std::max(t.magnitude, size[j]);
    }
  }
  return t;
}

// An element is a chain of k multiply-adds, cut every few hundred: its error is at most k·2⁻²⁴·Σ|a||b|, and
// about sqrt(k)·2⁻²⁴ of that for random operands. Four times that is still far below a wrong element.
double tolerance(const Gemm& op, const Case& t) {
  return 4 * std::sqrt(static_cast<double>(op.k) + 1) * 6e-8 * (t.magnitude + 4);
}
double error(const Floats& got, const Doubles& want) {
  double e = 0;
  for (std::size_t i = 0; i < want.size(); ++i) {
    const double d = std::abs(static_cast<double>(got[i]) - want[i]);
    if (!(d <= e)) e = d;
  }
  return e;
}

const i64 kShapes[][3] = {{1, 1, 1},     {1, 64, 33},   {5, 3, 7},     {12, 32, 16},   {13, 33, 17},  {64, 64, 64},
                          {67, 129, 300}, {200, 40, 385}, {3, 700, 513}, {500, 31, 769}, {256, 256, 1000}, {1, 2100, 64},
                          {90, 2500, 130}, {2, 2, 4000}};

TEST_CASE("a matrix product agrees with fp64 for every layout, every odd shape and both kinds of result") {
  Caller call;
  for (const auto& [m, n, k] : kShapes)
    for (const bool at : {false, true})
      for (const bool bt : {false, true})
        for (const bool accumulate : {false, true}) {
          const Gemm op{m, n, k, at, bt, accumulate, DType::fp32, DType::fp32};
          Case t = make(op);
          if (!accumulate) std::fill(t.c.begin(), t.c.end(), NAN);  // must not be read
          call(op, {in(t.a), in(t.b)}, {out(t.c)});
          CAPTURE(m); CAPTURE(n); CAPTURE(k); CAPTURE(at); CAPTURE(bt); CAPTURE(accumulate);
          CHECK(error(t.c, t.want) <= tolerance(op, t));
        }
}

TEST_CASE("a matrix product over no k is zero, or leaves what it adds to") {
  Caller call;
  for (const bool accumulate : {false, true}) {
    Floats a(1), b(1), c(20, 7.0f);
    call(Gemm{4, 5, 0, false, false, accumulate, DType::fp32, DType::fp32}, {in(a), in(b)}, {out(c)});
    CHECK(c == Floats(20, accumulate ? 7.0f : 0.0f));
  }
}

TEST_CASE("a matrix product has the same bits with 1, 2, 3 and 7 threads") {
  for (const auto& [m, n, k] : kShapes)
    for (const bool at : {false, true}) {
      const Gemm op{m, n, k, at, !at, true, DType::fp32, DType::fp32};
      const Case t = make(op);
      Floats first;
      for (const int threads : {1, 2, 3, 7}) {
        Caller call(threads);
        Floats c = t.c;
        call(op, {in(t.a), in(t.b)}, {out(c)});
        if (threads == 1) first = c;
        else CHECK(same_bits(c, first));
      }
    }
}

TEST_CASE("an element of a matrix product does not depend on the rest of the matrix") {
  // Row 40 of a [67, n] product, computed alone, has the same bits: tensor parallel ranks that split
  // rows or columns compute what one rank computes.
  Caller call;
  const i64 n = 129, k = 500;
  const Floats a = random_floats(67 * k, 1), b = random_floats(n * k, 2);
  Floats whole(67 * n), row(n);
  call(Gemm{67, n, k, false, true, false, DType::fp32, DType::fp32}, {in(a), in(b)}, {out(whole)});
  const Floats one(a.begin() + 40 * k, a.begin() + 41 * k);
  call(Gemm{1, n, k, false, true, false, DType::fp32, DType::fp32}, {in(one), in(b)}, {out(row)});
  CHECK(same_bits(row, Floats(whole.begin() + 40 * n, whole.begin() + 41 * n)));
}

TEST_CASE("every instruction set that this CPU has computes matrix products within rounding of fp64") {
  cpu::ThreadPool pool(2);
  for (const char* isa : {"generic", "avx2", "avx512"}) {
    const cpu::KernelTable* table = cpu::kernels_for(isa);
    if (!table) continue;
    CAPTURE(isa);
    for (const auto& [m, n, k] : kShapes)
      for (const bool at : {false, true})
        for (const bool bt : {false, true}) {
          const Gemm op{m, n, k, at, bt, true, DType::fp32, DType::fp32};
          Case t = make(op);
          cpu::gemm(*table, op, t.a.data(), t.b.data(), t.c.data(), pool);
          CHECK(error(t.c, t.want) <= tolerance(op, t));
        }
  }
}

}  // namespace
}  // namespace llmplan
