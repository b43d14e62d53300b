// The GPU kernels' bodies, operand order and launch geometry, run on the host by the block emulator.
#include <doctest/doctest.h>

#include <random>
#include <vector>

#include "executor/cuda/emulate.h"
#include "tests/executor/gpu_kernel_cases.h"

using namespace llmplan;
using namespace llmplan::cuda;
using namespace llmplan::cuda::test;

namespace {

struct Emulate {
  template <class Kernel>
  void operator()(const Kernel& kernel) const { emulate(kernel); }
};

struct OnHost {
  void operator()(const Op& op, std::vector<std::vector<std::byte>>& in, std::vector<std::vector<std::byte>>& out,
                  const Setting& setting, const std::vector<Segment>& segments, const AdamScalars& scalars) const {
    std::vector<const std::byte*> in_at;
    std::vector<std::byte*> out_at;
    for (auto& b : in) in_at.push_back(b.data());
    for (auto& b : out) out_at.push_back(b.data());
    std::vector<double> partial(64);
    LaunchContext context{setting.where, &setting.optimizer, segments.data(), static_cast<std::int64_t>(segments.size()),
                          setting.flat_begin, &scalars, partial.data(), setting.where.tp == 0};
    std::visit(Dispatch<Emulate>{{in_at, out_at}, context, {}}, op);
  }
};

}  // namespace

TEST_SUITE("GPU kernels on the host") {
  TEST_CASE("normalisation and its gradient agree with the CPU's") { check_norms(OnHost{}); }
  TEST_CASE("rotation, SwiGLU and additions agree with the CPU's") { check_pointwise(OnHost{}); }
  TEST_CASE("embeddings agree with the CPU's, on the rank that holds an id and on the others") { check_embeddings(OnHost{}); }
  TEST_CASE("cross entropy agrees with the CPU's, over shards, padding and rows without a target") { check_cross_entropy(OnHost{}); }
  TEST_CASE("gradient norm and AdamW agree with the CPU's, on whole buffers and on slices") { check_optimizer(OnHost{}); }
  TEST_CASE("loss scaling and the lean AdamW agree with the CPU's") { check_optimizer_states(OnHost{}); }
  TEST_CASE("quantised results are the CPU's codes") { check_quantization(OnHost{}); }
  TEST_CASE("attention and its gradient agree with the CPU's") { check_attention(OnHost{}); }

  TEST_CASE("ranks that share a GPU add up in rank order") {
    std::int64_t n = 1000;
    std::vector<std::vector<float>> parts(5, std::vector<float>(static_cast<std::size_t>(n)));
    std::normal_distribution<float> draw;
    for (auto& p : parts) for (float& v : p) v = draw(generator);
    std::vector<const std::byte*> in;
    for (auto& p : parts) in.push_back(reinterpret_cast<const std::byte*>(p.data()));
    std::vector<float> out(static_cast<std::size_t>(n)), expected(static_cast<std::size_t>(n), 0.0f);
    dispatch_rank_sum(DType::fp32, n, in, reinterpret_cast<std::byte*>(out.data()), Emulate{});
    for (auto& p : parts) for (std::size_t i = 0; i < p.size(); ++i) expected[i] += p[i];
    CHECK(out == expected);
  }

  TEST_CASE("indices past 2^31 elements are those of 64-bit arithmetic") {
    // The last block of an elementwise kernel over 2^32 + 8 elements touches exactly the last 8: the operands are
    // addressed relative to them, so no memory of that size is needed.
    std::int64_t n = (std::int64_t{1} << 32) + 8;
    std::vector<float> a(2048, 1.0f), b(2048, 2.0f), out(2048, 0.0f);
    auto shifted = [&](std::vector<float>& v) {
      return reinterpret_cast<float*>(reinterpret_cast<std::uintptr_t>(v.data()) - static_cast<std::uintptr_t>(n - 8) * sizeof(float));
    };
    AddKernel<float> kernel{n, shifted(a), shifted(b), shifted(out)};
    Launch launch = kernel.launch();
    CHECK(launch.blocks == n / (kPointwiseThreads * 4) + 1);
    emulate(kernel, launch.blocks - 1, launch.blocks);
    for (std::size_t i = 0; i < 16; ++i) CHECK(out[i] == (i < 8 ? 3.0f : 0.0f));
  }

  TEST_CASE("the emulator notices a block whose threads wait for ones that left") {
    struct Lost {
      Launch launch() const { return {1, 64, 0}; }
      void operator()(EmulatedBlock& block) const { if (block.thread() != 5) block.sync(); }
    };
    CHECK_THROWS_AS(emulate(Lost{}), std::logic_error);
  }
}
