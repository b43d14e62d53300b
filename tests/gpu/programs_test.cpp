// Whole programs on a GPU, through the library that llmplan loads. With fewer GPUs than ranks, the ranks share one.
#include <doctest/doctest.h>

#include <dlfcn.h>

#include "executor/gpu.h"
#include "planner/simulate.h"
#include "tests/executor/gpu_programs.h"
#include "tests/gpu/device.h"

using namespace llmplan;
using namespace llmplan::gpu_programs;
using llmplan::cuda::test::no_gpu;

namespace {

// The library beside the build's binary, wherever this test lies.
struct Loaded {
  GpuLibrary library;
  Loaded() {
    void* handle = dlopen(LLMPLAN_CUDA_LIBRARY, RTLD_NOW | RTLD_LOCAL);
    REQUIRE_MESSAGE(handle != nullptr, dlerror());
    library.api = reinterpret_cast<const GpuApi* (*)()>(dlsym(handle, "llmplan_gpu_api"))();
    REQUIRE(library.api->version == kGpuApi);
    use_gpu_library(&library);
  }
  ~Loaded() { use_gpu_library(nullptr); }
};

}  // namespace

TEST_SUITE("programs on a GPU") {
  TEST_CASE("the library loads, and says what it was built with" ) {
    Loaded loaded;
    CHECK(std::string(loaded.library.api->versions()).find("cuBLASLt") != std::string::npos);
  }

  TEST_CASE("golden: losses, gradients and weights after five AdamW steps are PyTorch's" * doctest::skip(no_gpu())) {
    Loaded loaded;
    for (const char* name : {"gpu_head64", "gqa_untied", "gqa_tied_llama3_rope"}) {
      const Golden golden(name);
      for (std::int64_t micro_batch : {4, 1})
        for (bool timed : {false, true}) {
          Strategy s;
          s.micro_batch = micro_batch;
          check_against(golden, s, gpus_for(s), timed);
        }
    }
  }

  TEST_CASE("golden: bf16 gradients are no further from the truth than 1.5 times PyTorch's in bf16" * doctest::skip(no_gpu())) {
    Loaded loaded;
    Strategy one, tp;
    one.micro_batch = 4;
    tp.tp = 2, tp.sp = true, tp.micro_batch = 4;
    for (const Strategy& s : {one, tp}) check_bf16_against(Golden("gpu_head64"), s, gpus_for(s));
  }

  TEST_CASE("equality: every strategy with 1, 2 and 4 ranks computes what one rank of the CPU computes" * doctest::skip(no_gpu())) {
    Loaded loaded;
    for (std::size_t i = 0; i < strategies().size(); ++i) check_strategy(i);
  }

  TEST_CASE("equality: a graph, a timed step and a second run give the same bits" * doctest::skip(no_gpu())) {
    Loaded loaded;
    Strategy s;
    s.tp = s.pp = 2;
    for (const Strategy& strategy : {Strategy{}, s}) {
      const Trajectory a = train(gpu_plan(strategy), 3), b = train(gpu_plan(strategy), 3, true), c = train(gpu_plan(strategy), 3);
      CHECK(a.losses == b.losses);
      CHECK(a.losses == c.losses);
      CHECK(a.weights == b.weights);
      CHECK(a.weights == c.weights);
    }
  }

  TEST_CASE("memory: the arena is what was predicted, and the driver sees it taken" * doctest::skip(no_gpu())) {
    Loaded loaded;
    Plan plan = gpu_plan({});
    predict(plan);
    Ranks ranks(plan);
    CHECK(ranks.allocated_arena(0) == plan.prediction.arena);
  }
}
