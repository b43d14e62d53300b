// The GPU kernels on a GPU, held against the CPU's.
#include <doctest/doctest.h>

#include <vector>

#include "executor/cuda/gemm.h"
#include "executor/cuda/launch.h"
#include "executor/cuda/random.h"
#include "executor/cuda/status.h"
#include "tests/executor/gpu_kernel_cases.h"
#include "tests/gpu/device.h"

using namespace llmplan;
using namespace llmplan::cuda;
using namespace llmplan::cuda::test;

namespace {

// A copy of host bytes on the device.
class OnDevice {
 public:
  OnDevice(const void* from, std::size_t bytes) : bytes_(bytes) {
    check(cudaMalloc(&at_, bytes ? bytes : 1), "test");
    check(cudaMemcpy(at_, from, bytes, cudaMemcpyHostToDevice), "test");
  }
  ~OnDevice() { cudaFree(at_); }
  OnDevice(OnDevice&& o) noexcept : at_(std::exchange(o.at_, nullptr)), bytes_(o.bytes_) {}
  std::byte* get() const { return static_cast<std::byte*>(at_); }
  void to_host(void* to) const { check(cudaMemcpy(to, at_, bytes_, cudaMemcpyDeviceToHost), "test"); }

 private:
  void* at_ = nullptr;
  std::size_t bytes_;
};

struct OnGpu {
  void operator()(const Op& op, std::vector<std::vector<std::byte>>& in, std::vector<std::vector<std::byte>>& out,
                  const Setting& setting, const std::vector<Segment>& segments, const AdamScalars& scalars) const {
    std::vector<OnDevice> held;
    std::vector<const std::byte*> in_at;
    std::vector<std::byte*> out_at;
    auto hold = [&](const void* from, std::size_t bytes) { return held.emplace_back(from, bytes).get(); };
    for (auto& b : in) in_at.push_back(hold(b.data(), b.size()));
    std::size_t first_out = held.size();
    for (auto& b : out) out_at.push_back(hold(b.data(), b.size()));
    std::vector<double> partial(64);
    LaunchContext context{setting.where, &setting.optimizer,
                          reinterpret_cast<const Segment*>(hold(segments.data(), segments.size() * sizeof(Segment))),
                          static_cast<std::int64_t>(segments.size()), setting.flat_begin,
                          reinterpret_cast<const AdamScalars*>(hold(&scalars, sizeof scalars)),
                          reinterpret_cast<double*>(hold(partial.data(), partial.size() * sizeof(double))),
                          setting.where.tp == 0};
    launch(op, in_at, out_at, context, nullptr);
    check(cudaDeviceSynchronize(), "test");
    for (std::size_t i = 0; i < out.size(); ++i) held[first_out + i].to_host(out[i].data());
  }
};

}  // namespace

TEST_SUITE("GPU kernels on a GPU" * doctest::skip(no_gpu())) {
  TEST_CASE("normalisation and its gradient agree with the CPU's, sanitizer") { check_norms(OnGpu{}); }
  TEST_CASE("rotation, SwiGLU and additions agree with the CPU's, sanitizer") { check_pointwise(OnGpu{}); }
  TEST_CASE("embeddings agree with the CPU's, on the rank that holds an id and on the others, sanitizer") { check_embeddings(OnGpu{}); }
  TEST_CASE("cross entropy agrees with the CPU's, over shards, padding and rows without a target, sanitizer") { check_cross_entropy(OnGpu{}); }
  TEST_CASE("gradient norm and AdamW agree with the CPU's, on whole buffers and on slices, sanitizer") { check_optimizer(OnGpu{}); }
  TEST_CASE("loss scaling and the lean AdamW agree with the CPU's, sanitizer") { check_optimizer_states(OnGpu{}); }
  TEST_CASE("quantised results are the CPU's codes, sanitizer") { check_quantization(OnGpu{}); }
  TEST_CASE("attention and its gradient agree with the CPU's, sanitizer") { check_attention(OnGpu{}); }

  TEST_CASE("matrix products in every transposition agree with fp64, accumulating or not") {
    void* workspace = nullptr;
    check(cudaMalloc(&workspace, kGemmWorkspace), "test");
    {
      Gemms gemms(workspace);
      for (DType t : {DType::fp32, DType::bf16}) for (bool ta : {false, true}) for (bool tb : {false, true}) for (bool accumulate : {false, true}) {
              Gemm g{64, 48, 80, ta, tb, accumulate, t, DType::fp32};
              Operand a = normal(g.m * g.k), b = normal(g.k * g.n), c = normal(g.m * g.n, Operand::Kind::fp32);
              auto ab = to_bytes(a, t), bb = to_bytes(b, t), cb = to_bytes(c, t);
              OnDevice da(ab.data(), ab.size()), db(bb.data(), bb.size()), dc(cb.data(), cb.size());
              gemms.run(g, da.get(), db.get(), dc.get(), nullptr);
              check(cudaDeviceSynchronize(), "test");
              dc.to_host(cb.data());
              auto got = to_values(cb, c, t);
              double error = 0, size = 0;
              for (std::int64_t i = 0; i < g.m; ++i) for (std::int64_t j = 0; j < g.n; ++j) {
                  auto at = static_cast<std::size_t>(i * g.n + j);
                  double sum = accumulate ? c.values[at] : 0;
                  for (std::int64_t k = 0; k < g.k; ++k)
                    sum += a.values[static_cast<std::size_t>(ta ? k * g.m + i : i * g.k + k)] * b.values[static_cast<std::size_t>(tb ? j * g.k + k : k * g.n + j)];
                  error += (got[at] - sum) * (got[at] - sum);
                  size += sum * sum;
                }
              CAPTURE(key(g));
              // Products of bf16 numbers are exact in fp32, so both types only lose in the fp32 sum of 80 terms.
              CHECK(std::sqrt(error / size) < 2e-6);
            }
    }
    cudaFree(workspace);
  }

  TEST_CASE("an elementwise kernel reaches elements past 2^31") {
    std::int64_t n = (std::int64_t{1} << 31) + 4096;
    std::size_t free = 0, total = 0;
    check(cudaMemGetInfo(&free, &total), "test");
    if (free < static_cast<std::size_t>(3 * n * 2)) { MESSAGE("skipped: needs " << 3 * n * 2 << " bytes"); return; }
    void *a = nullptr, *b = nullptr;
    check(cudaMalloc(&a, static_cast<std::size_t>(2 * n)), "test");
    check(cudaMalloc(&b, static_cast<std::size_t>(2 * n)), "test");
    fill_random(DType::bf16, n, a, 1, nullptr);
    check(cudaMemset(b, 0, static_cast<std::size_t>(2 * n)), "test");
    std::vector<const std::byte*> in{static_cast<std::byte*>(a), static_cast<std::byte*>(b)};
    std::vector<std::byte*> out{static_cast<std::byte*>(b)};
    launch(Add{n, DType::bf16}, in, out, {}, nullptr);
    std::vector<std::uint16_t> x(4096), y(4096);
    check(cudaMemcpy(x.data(), static_cast<std::uint16_t*>(a) + n - 4096, 8192, cudaMemcpyDeviceToHost), "test");
    check(cudaMemcpy(y.data(), static_cast<std::uint16_t*>(b) + n - 4096, 8192, cudaMemcpyDeviceToHost), "test");
    CHECK(x == y);
    cudaFree(a);
    cudaFree(b);
  }
}
