// Our matrix products beside Eigen's, on one core, taking turns: why the CPU backend has kernels of its own.
//
//   gemm_bench [ROWS OUT IN]...        default: shapes of the tiny models at 2,048 tokens
//
// GFLOP/s by CPU time (medians), forward / input gradient / weight gradient. Eigen is compiled for the instruction set
// of the machine that builds it; its own threads are off.
#define EIGEN_DONT_PARALLELIZE
#include <fmt/format.h>

#include <Eigen/Core>
#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <ctime>
#include <vector>

#include "executor/cpu/kernels.h"

namespace llmplan {
namespace {

using Matrix = Eigen::Map<Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>>;

double cpu_seconds() {
  timespec t;
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
  return static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec);
}

// c (+)= a·b with Eigen, for the three forms that a linear layer needs.
void eigen(const Gemm& g, float* a, float* b, float* c) {
  Matrix result(c, g.m, g.n);
  if (g.a_transposed) result.noalias() += Matrix(a, g.k, g.m).transpose() * Matrix(b, g.k, g.n);
  else if (g.b_transposed) result.noalias() = Matrix(a, g.m, g.k) * Matrix(b, g.n, g.k).transpose();
  else result.noalias() = Matrix(a, g.m, g.k) * Matrix(b, g.k, g.n);
}

// Median rates of ours and Eigen's; also checks that both computed the same product.
std::pair<double, double> compare(const Gemm& g) {
  std::vector<float> a(static_cast<std::size_t>(g.m * g.k)), b(static_cast<std::size_t>(g.k * g.n));
  std::vector<float> ours(static_cast<std::size_t>(g.m * g.n)), theirs(ours.size());
  for (auto* v : {&a, &b})
    for (float& x : *v) x = static_cast<float>(std::rand()) / static_cast<float>(RAND_MAX) - 0.5f;
  cpu::ThreadPool pool(1);
  cpu::KernelContext context;
  context.pool = &pool;
  const std::byte* reads[] = {reinterpret_cast<std::byte*>(a.data()), reinterpret_cast<std::byte*>(b.data())};
  std::byte* writes[] = {reinterpret_cast<std::byte*>(ours.data())};
  cpu::run(g, reads, writes, context);
  eigen(g, a.data(), b.data(), theirs.data());
  // Sums of k products of numbers below 0.5, rounded at 2^-24 each, in different orders.
  const double tolerance = 1e-6 * static_cast<double>(g.k);
  for (std::size_t i = 0; i < ours.size(); i += 97)
    if (std::abs(ours[i] - theirs[i]) > tolerance) { fmt::print(stderr, "the products differ\n"); std::exit(1); }
  std::vector<double> mine, other;
  for (int round = 0; round < 7; ++round) {
    double t0 = cpu_seconds();
    cpu::run(g, reads, writes, context);
    double t1 = cpu_seconds();
    eigen(g, a.data(), b.data(), theirs.data());
    mine.push_back(t1 - t0);
    other.push_back(cpu_seconds() - t1);
  }
  auto rate = [&](std::vector<double>& t) {
    std::nth_element(t.begin(), t.begin() + 3, t.end());
    return 2e-9 * static_cast<double>(g.m * g.n * g.k) / t[3];
  };
  return {rate(mine), rate(other)};
}

void print_row(std::int64_t rows, std::int64_t out, std::int64_t in) {
  fmt::print("{:>6} x {:>6} x {:>6}", rows, out, in);
  for (const Gemm& g : {Gemm{rows, out, in, false, true, false, DType::fp32, DType::fp32},
                        Gemm{rows, in, out, false, false, false, DType::fp32, DType::fp32},
                        Gemm{out, in, rows, true, false, true, DType::fp32, DType::fp32}}) {
    auto [ours, theirs] = compare(g);
    fmt::print("   {:4.0f} {:4.0f} {:5.2f}x", ours, theirs, ours / theirs);
  }
  fmt::print("\n");
}

}  // namespace
}  // namespace llmplan

int main(int argc, char** argv) {
  fmt::print("kernels: {}\n  rows x    out x     in   forward: ours Eigen   input gradient       weight gradient\n",
             llmplan::cpu::instruction_set());
  if (argc > 3) {
    for (int i = 1; i + 2 < argc; i += 3) llmplan::print_row(std::atoll(argv[i]), std::atoll(argv[i + 1]), std::atoll(argv[i + 2]));
    return 0;
  }
  for (auto [out, in] : {std::pair{512, 256}, {512, 512}, {1024, 512}, {2816, 512}, {512, 1408}, {8192, 256}})
    llmplan::print_row(2048, out, in);
  llmplan::print_row(512, 32000, 512);
}
