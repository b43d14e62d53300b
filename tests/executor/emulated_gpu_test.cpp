// Whole programs through the code that issues them to a GPU, and through the GPU kernels' bodies, on an emulated card
// (emulated_device.h) that runs work late and in any order that streams and events allow.
#include <doctest/doctest.h>

#include <set>
#include <thread>

#include "costmodel/error.h"
#include "costmodel/estimate.h"
#include "executor/calibrate.h"
#include "planner/simulate.h"
#include "tests/executor/emulated_device.h"
#include "tests/executor/gpu_programs.h"

using namespace llmplan;
using namespace llmplan::gpu_programs;
using cuda::test::EmulatedMachine;

namespace {

// Under the sanitizers everything is ten times slower: a part will do there.
#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
constexpr std::size_t kStride = 4;
#else
constexpr std::size_t kStride = 1;
#endif

}  // namespace

TEST_SUITE("a GPU emulated on the host") {
  TEST_CASE("losses, gradients and weights after five AdamW steps are PyTorch's") {
    for (const char* name : {"gpu_head64", "gqa_untied", "gqa_tied_llama3_rope"}) {
      EmulatedMachine machine;
      const Golden golden(name);
      Strategy one;
      one.micro_batch = 4;
      check_against(golden, one, gpus_for(one), false);
      CHECK(machine.count("graph") == golden.steps);  // each step was one graph launch
    }
  }

  TEST_CASE("bf16 gradients, through tensor-core attention, are no further from the truth than 1.5 times PyTorch's in bf16") {
    EmulatedMachine machine;
    Strategy one, tp;
    one.micro_batch = 4;
    tp.tp = 2, tp.sp = true, tp.micro_batch = 4;
    for (const Strategy& s : {one, tp}) check_bf16_against(Golden("gpu_head64"), s, gpus_for(s));
  }

  TEST_CASE("every strategy with 1, 2 and 4 ranks that share the card computes what one rank of the CPU computes") {
    const auto all = strategies();
    for (std::size_t i = 0; i < all.size(); i += kStride) {
      EmulatedMachine machine(static_cast<unsigned>(i + 1));
      check_strategy(i);
      CHECK(machine.count("kernel") > 0);
      CHECK((machine.count("graph") > 0) == (all[i].devices() == 1));
    }
  }

  TEST_CASE("the order in which the card runs work, capture and timing change no bit") {
    Strategy s;
    s.tp = s.pp = 2;
    s.sp = true;
    Strategy buckets;
    buckets.dp = 2, buckets.zero = 1, buckets.grad_bucket = 1;
    for (const Strategy& strategy : {Strategy{}, s, buckets}) {
      INFO(describe(strategy));
      std::vector<Trajectory> runs;
      for (unsigned seed : {1u, 2u, 3u}) {
        EmulatedMachine machine(seed);
        runs.push_back(train(gpu_plan(strategy), strategy.devices() == 1 ? 2 : 1, seed == 3));
      }
      CHECK(runs[0].losses == runs[1].losses);
      CHECK(runs[0].weights == runs[1].weights);
      CHECK(runs[0].losses == runs[2].losses);
      CHECK(runs[0].weights == runs[2].weights);
    }
  }

  TEST_CASE("a timed step has a span for every instruction, in which nothing starts before what it waits for") {
    EmulatedMachine machine;
    Strategy s;
    s.pp = 2;
    const Plan plan = gpu_plan(s);
    Ranks ranks(plan);
    ranks.init(1);
    ranks.step({1, 1e-3}, tiny_source(1), true);
    for (int r = 0; r < ranks.size(); ++r) {
      const Program& program = ranks.programs().programs[static_cast<std::size_t>(r)];
      const Timeline& t = ranks.timeline(r);
      REQUIRE(t.size() == program.instrs.size());
      for (std::size_t i = 0; i < t.size(); ++i) {
        CHECK(t[i].finish >= t[i].start);
        for (InstrId w : program.instrs[i].waits) CHECK(t[i].start >= t[static_cast<std::size_t>(w)].finish);
      }
    }
  }

  TEST_CASE("the arena is what was predicted") {
    EmulatedMachine machine;
    Strategy s;
    s.tp = s.dp = 2, s.zero = 1, s.sp = true;
    Plan plan = gpu_plan(s);
    predict(plan);
    Ranks ranks(plan);
    for (int r = 0; r < ranks.size(); ++r) CHECK(ranks.allocated_arena(r) == plan.prediction.arena);
  }

  TEST_CASE("a rank that fails ends the others, and its own error is the one that is told") {
    EmulatedMachine machine;
    for (const auto& [tp, pp] : {std::pair(2, 1), std::pair(1, 2), std::pair(2, 2)}) {
      Strategy s;
      s.tp = tp, s.pp = pp;
      Ranks ranks(gpu_plan(s));
      ranks.init(1);
      std::atomic<int> calls = 0;
      SampleSource source = [&](std::int64_t i, std::span<std::int32_t> ids, std::span<std::int32_t> targets) {
        if (++calls == 2) throw Error("E0402", Exit::data, "no such sample", "none");
        tiny_samples(1, 131, i, ids, targets);
      };
      try {
        ranks.step({1, 1e-3}, source);
        FAIL("the step ended well");
      } catch (const Error& e) {
        CHECK(e.code == "E0402");
      }
    }
  }

  TEST_CASE("a run is stopped in the middle of a step, whether ranks share the card or one has it") {
    for (int tp : {1, 2}) {
      EmulatedMachine machine;
      std::atomic<int> stop = 0;
      Strategy s;
      s.tp = tp;
      Ranks ranks(gpu_plan(s), &stop);
      ranks.init(1);
      SampleSource source = [&](std::int64_t i, std::span<std::int32_t> ids, std::span<std::int32_t> targets) {
        stop = 2;
        std::this_thread::sleep_for(std::chrono::milliseconds(150));  // the watch looks ten times a second
        tiny_samples(1, 131, i, ids, targets);
      };
      try {
        ranks.step({1, 1e-3}, source);
        FAIL("the step ended well");
      } catch (const Error& e) {
        CHECK(e.code == "E0602");
      }
    }
  }
}

TEST_SUITE("a GPU emulated on the host") {
  TEST_CASE("calibration times a GPU's ops, each with a card of its own, and leaves peak and bandwidth to the profile") {
    EmulatedMachine machine;
    Cluster local = gpus_for({});
    local.device.memory = local.device.reserve + Bytes{8 << 20};  // the second sample does not fit
    CalibrationOptions options;
    options.samples = {{32, 2, 1, 16, 64, 64, 16, 1}, {8192, 64, 8, 128, 28672, 32000, 4096, 1}};
    const Device d = calibrate(local, options);
    CHECK(d.name == local.device.name);
    CHECK(d.peak == local.device.peak);
    CHECK(d.memory_bandwidth.value == local.device.memory_bandwidth.value);
    std::set<std::string_view> kinds;
    for (const MeasuredOp& m : d.measured) {
      kinds.insert(kind_of(m.op));
      CHECK(m.ranks == 1);
      CHECK(m.threads == 1);
      CHECK(op_time(m.op, d) == m.time);
    }
    for (const char* kind : {"gemm", "attention", "attention_grad", "rms_norm", "swiglu", "cross_entropy_grad", "adamw"})
      CHECK_MESSAGE(kinds.contains(kind), kind);
  }
}

TEST_SUITE("the emulated card") {
  using namespace llmplan::cuda;
  using namespace llmplan::cuda::test;

  TEST_CASE("refuses what CUDA would refuse or silently ignore") {
    auto device = make_emulated_device(make_emulated_card(1));
    OwnedStream a(*device, device->make_stream()), b(*device, device->make_stream());
    OwnedEvent e(*device, device->make_event(false));
    CHECK_THROWS_AS(device->wait(a.get(), e.get()), std::logic_error);
    device->begin_capture(a.get());
    CHECK_THROWS_AS(device->allocate(16), std::logic_error);
    CHECK_THROWS_AS(device->synchronize(a.get()), std::logic_error);
    char x = 0, y = 1;
    CHECK_THROWS_AS(device->copy(&x, &y, 1, b.get()), std::logic_error);  // b did not join
    device->record(e.get(), a.get());
    device->wait(b.get(), e.get());
    device->copy(&x, &y, 1, b.get());
    CHECK_THROWS_AS(device->end_capture(a.get()), std::logic_error);      // b did not come back
  }

  TEST_CASE("shows a missing wait: without it the order is not the enqueued one under some seed") {
    for (bool waits : {true, false}) {
      int late = 0;
      for (unsigned seed = 1; seed <= 20; ++seed) {
        auto device = make_emulated_device(make_emulated_card(seed));
        OwnedStream a(*device, device->make_stream()), b(*device, device->make_stream());
        OwnedEvent e(*device, device->make_event(false));
        char value = 1, middle = 0, out = 0;
        device->copy(&middle, &value, 1, a.get());
        device->record(e.get(), a.get());
        if (waits) device->wait(b.get(), e.get());
        device->copy(&out, &middle, 1, b.get());
        device->synchronize(b.get());
        late += out != 1;
      }
      CHECK((late > 0) == !waits);
    }
  }
}
