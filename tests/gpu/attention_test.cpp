// Attention at real sizes on a GPU: llmplan's kernels against a reference in fp32, and cuDNN beside them. What is printed
// as a table goes into gpu-check's record.
#include <doctest/doctest.h>

#include <cstdio>
#include <set>

#include "costmodel/block.h"
#include "costmodel/profiles/profiles.h"
#include "executor/cuda/attention_choice.h"
#include "executor/cuda/cuda_device.h"
#include "tests/gpu/device.h"

using namespace llmplan;
using namespace llmplan::cuda;
using llmplan::cuda::test::no_gpu;

namespace {

// llmplan's own kernels in the place of a library: they are held against the reference, and against themselves.
class OwnKernels final : public AttentionLibrary {
 public:
  explicit OwnKernels(cuda::Device& device) : device_(device) {}
  std::string name() const override { return "llmplan"; }
  std::string identity() const override { return ""; }
  std::string prepare(const Op&, bool) override { return ""; }
  void run(const Op& op, std::span<const std::byte* const> reads, std::span<std::byte* const> writes, StreamHandle s) override {
    device_.launch(op, reads, writes, {}, s);
  }

 private:
  cuda::Device& device_;
};

struct Case { const char* model; std::int64_t micro_batch, seq; DType precision; };
constexpr Case kCases[] = {{"llama-3.2-1b", 1, 4096, DType::bf16}, {"llama-3.2-1b", 1, 8192, DType::bf16}, {"llama-3.1-8b", 1, 4096, DType::bf16},
                           {"llama-3.1-8b", 1, 8192, DType::bf16}, {"llama-3.1-8b", 2, 4096, DType::bf16}, {"llama-2-7b", 1, 2048, DType::fp16}};

std::vector<Op> ops_of(const Case& c) {
  Workload w;
  w.precision = c.precision;
  w.seq = c.seq;
  Strategy st;
  st.micro_batch = c.micro_batch;
  const Shapes s = shapes_of(read_model(c.model), read_cluster("h200-141g-sxm"), w, st);
  return {Attention{s.micro_batch, s.seq, s.heads, s.kv_heads, s.head_dim, true, s.dtype},
          AttentionGrad{s.micro_batch, s.seq, s.heads, s.kv_heads, s.head_dim, true, s.dtype, false, s.library_workspace}};
}
double worst_whole(const AttentionCheck& c, Distance PartCheck::*side) {
  double most = 0;
  for (const PartCheck& p : c.parts) most = std::max(most, (p.*side).whole);
  return most;
}
double tflops(const Op& op, Seconds t) { return flops(op).value / t.value / 1e12; }

}  // namespace

TEST_SUITE("attention on a GPU" * doctest::skip(no_gpu())) {
  TEST_CASE("attention: llmplan's kernels err as 16 bits do at real sizes, and give the same bits every time") {
    const auto device = make_cuda_device(0);
    OwnKernels own(*device);
    for (const Case& c : kCases)
      for (const Op& op : ops_of(c)) {
        const AttentionCheck check = check_attention(*device, own, op, 1);
        CAPTURE(c.model); CAPTURE(c.seq);
        CHECK(check.same_bits);
        for (const PartCheck& p : check.parts) {
          CAPTURE(p.part);
          CHECK(p.library.finite);
          CHECK(p.library.whole < 0x1p-7);  // p, ds and the results are rounded to 8 bits: two of their last places
        }
      }
  }

  // A library that is wrong, slow or absent is no failure: it is not used then. The table says what was found.
  TEST_CASE("attention: llmplan's kernels beside cuDNN's") {
    const auto device = make_cuda_device(0);
    std::string why_none;
    AttentionLibrary* library = device->attention_library(why_none);
    if (!library) {
      std::printf("no cuDNN to compare with: %s\n", why_none.c_str());
      return;
    }
    std::printf("| attention | llmplan ms | TFLOP/s | %s ms | TFLOP/s | ratio | llmplan's error | its error | same bits | verdict |\n|---|---|---|---|---|---|---|---|---|---|\n",
                library->name().c_str());
    for (const Case& c : kCases)
      for (const Op& op : ops_of(c))
        for (bool same_bits : {true, false}) {
          const bool backward = std::holds_alternative<AttentionGrad>(op);
          if (!backward && !same_bits) continue;  // a forward pass has one way
          std::printf("| %s, %ld x %ld, %s%s ", c.model, static_cast<long>(c.micro_batch), static_cast<long>(c.seq), backward ? "backward" : "forward",
                      backward ? same_bits ? ", same bits" : ", any order" : "");
          if (const std::string refusal = library->prepare(op, same_bits); !refusal.empty()) {
            std::printf("| | | | | | | | | %s |\n", refusal.c_str());
            continue;
          }
          const AttentionCheck check = check_attention(*device, *library, op, 10);
          const std::string mistake = wrong(check);
          std::printf("| %.3f | %.0f | %.3f | %.0f | %.2f | %.2g | %.2g | %s | %s |\n", 1e3 * check.own.value, tflops(op, check.own), 1e3 * check.library.value,
                      tflops(op, check.library), check.own / check.library, worst_whole(check, &PartCheck::own), worst_whole(check, &PartCheck::library),
                      check.same_bits ? "yes" : "no", mistake.empty() ? "right" : mistake.c_str());
          CHECK(check.own.value > 0);
          CHECK(check.library.value > 0);
        }
  }
}
