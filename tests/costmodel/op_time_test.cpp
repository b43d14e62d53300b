// Interpolation between measured ops, and the roofline where nothing was measured.
#include <doctest/doctest.h>

#include <cmath>
#include <random>

#include "costmodel/estimate.h"

namespace llmplan {
namespace {

Gemm gemm(std::int64_t m, std::int64_t n, std::int64_t k) {
  return {m, n, k, false, true, false, DType::fp32, DType::fp32};
}

// A machine whose true GEMM rate falls for small dimensions, as blocking and packing make it fall.
double true_time(const Gemm& g) {
  const double m = static_cast<double>(g.m), n = static_cast<double>(g.n), k = static_cast<double>(g.k);
  const double rate = 200e9 * (m / (m + 20)) * (n / (n + 30)) * (k / (k + 40));
  return 2 * m * n * k / rate + 2e-6;
}

Device calibrated() {
  Device d;
  d.cpu = true, d.cores = 2;
  for (std::int64_t m : {64, 256, 1024, 4096})
    for (std::int64_t n : {64, 256, 1024, 4096})
      for (std::int64_t k : {64, 256, 1024, 4096})
        d.measured.push_back({gemm(m, n, k), 2, 1, {true_time(gemm(m, n, k))}});
  return d;
}

TEST_CASE("a measured op takes what was measured, to the bit") {
  const Device d = calibrated();
  for (const MeasuredOp& m : d.measured) CHECK(op_time(m.op, d, 2, 1).value == m.time.value);
}

TEST_CASE("between measured shapes that are a factor of 4 apart, GEMMs are within 10 %") {
  const Device d = calibrated();
  std::mt19937 random(3);
  double worst = 0, sum = 0;
  constexpr int kTrials = 2000;
  for (int i = 0; i < kTrials; ++i) {
    const auto size = [&] { return static_cast<std::int64_t>(64 * std::exp2((random() % 600) / 100.0)); };
    const Gemm g = gemm(size(), size(), size());
    const double error = std::abs(op_time(g, d, 2, 1).value / true_time(g) - 1);
    worst = std::max(worst, error);
    sum += error;
  }
  CHECK(sum / kTrials < 0.05);  // a step is a sum of many shapes
  CHECK(worst < 0.25);          // next to the smallest dimensions
}

TEST_CASE("a pointwise op between two measured sizes has a rate between theirs") {
  Device d;
  d.cpu = true, d.cores = 1;
  const auto add = [](std::int64_t n) { return Op{Add{n, DType::fp32}}; };
  d.measured = {{add(1 << 10), 1, 1, {1e-6}}, {add(1 << 20), 1, 1, {2e-3}}};
  const auto rate = [&](std::int64_t n) { return static_cast<double>(n) / op_time(add(n), d, 1, 1).value; };
  double before = rate(1 << 10);
  for (std::int64_t n = 1 << 11; n <= 1 << 20; n *= 2) {
    CHECK(rate(n) <= before * (1 + 1e-9));
    before = rate(n);
  }
  CHECK(rate(std::int64_t{1} << 30) == doctest::Approx(rate(1 << 20)).epsilon(0.2));  // the rate holds beyond the ends
}

TEST_CASE("what was measured under another load is scaled by the cores that each rank gets") {
  Device d = calibrated();
  const Op op = gemm(1024, 1024, 1024);
  CHECK(op_time(op, d, 1, 2).value == doctest::Approx(op_time(op, d, 2, 1).value / 2).epsilon(0.05));
}

TEST_CASE("a GPU's GEMM pays for its last, partly filled wave, and never runs faster than the peak") {
  Device d;
  d.sms = 108;
  d.peak[DType::bf16] = {312e12};
  d.memory_bandwidth = {2e12};
  const auto rate = [&](std::int64_t m, std::int64_t n, std::int64_t k) {
    const Gemm g{m, n, k, false, true, false, DType::bf16, DType::bf16};
    return flops(g).value / op_time(g, d).value;
  };
  // 108 tiles of 256 x 128 fill the machine once; 112 need a second wave, or smaller and slower tiles.
  CHECK(rate(256 * 12, 128 * 9, 8192) == doctest::Approx(312e12).epsilon(1e-9));
  CHECK(rate(256 * 14, 128 * 8, 8192) < 0.95 * 312e12);
  std::mt19937 random(5);
  for (int i = 0; i < 2000; ++i)
    CHECK(rate(1 + random() % 9000, 1 + random() % 9000, 1 + random() % 9000) <= 312e12 * (1 + 1e-9));
}

TEST_CASE("ring collectives take the published number of steps and bytes") {
  Cluster c;
  c.devices_per_node = 8;
  c.intra = {"", {100e9}, {1e-6}, {}};
  Strategy s;
  s.dp = 8;
  const double size = 1e9;
  const auto time = [&](Collective::Kind k) { return transfer_time(Collective{k, Axis::dp, {1'000'000'000}, DType::fp32}, c, s).value; };
  CHECK(time(Collective::Kind::all_reduce) == doctest::Approx(2 * 7.0 / 8 * size / 100e9 + 14e-6));
  CHECK(time(Collective::Kind::all_gather) == doctest::Approx(7.0 / 8 * size / 100e9 + 7e-6));
  CHECK(time(Collective::Kind::reduce_scatter) == doctest::Approx(7.0 / 8 * size / 100e9 + 7e-6));
}

TEST_CASE("a group that spans nodes is as fast as its ranks' NICs in one node together") {
  Cluster c;
  c.nodes = 4, c.devices_per_node = 8;
  c.intra = {"", {400e9}, {0}, {}};
  c.inter = {"", {25e9}, {0}, {}};
  Strategy wide, narrow;
  wide.dp = 32;                 // 8 of a group in each node: 8 NICs
  narrow.tp = 8, narrow.dp = 4; // one in each node: one NIC
  const auto time = [&](const Strategy& s) { return transfer_time(Collective{Collective::Kind::all_gather, Axis::dp, {1'000'000'000}, DType::bf16}, c, s).value; };
  CHECK(time(wide) == doctest::Approx(31.0 / 32 * 1e9 / 200e9));
  CHECK(time(narrow) == doctest::Approx(3.0 / 4 * 1e9 / 25e9));
}

}  // namespace
}  // namespace llmplan
