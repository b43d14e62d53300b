// Whether a library of attention is used: it must be right for the shape at hand, give the same bits every time, and be
// faster. A made-up library is all of that, or is not, on an emulated card.
#include <doctest/doctest.h>

#include <cstdlib>
#include <fstream>

#include "costmodel/error.h"
#include "executor/cuda/attention_choice.h"
#include "tests/executor/emulated_device.h"
#include "tests/executor/gpu_programs.h"
#include "tests/executor/made_up_attention.h"
#include "tests/executor/scratch.h"

using namespace llmplan;
using namespace llmplan::cuda;
using namespace llmplan::cuda::test;
using namespace llmplan::gpu_programs;

namespace {

constexpr std::int64_t kBatch = 1, kSeq = 128, kHeads = 2, kKeyHeads = 1, kDim = 64;
const Op kForward = Attention{kBatch, kSeq, kHeads, kKeyHeads, kDim, true, DType::bf16};
const Op kBackward = AttentionGrad{kBatch, kSeq, kHeads, kKeyHeads, kDim, true, DType::bf16, false, 4096};

AttentionChoices choose(const MadeUpAttention& what, const std::vector<Op>& ops, AttentionPolicy policy = AttentionPolicy::same_bits,
                        const std::string& file = "") {
  const Offer offer(what);
  // The device lives no longer than this call, and so does its library: what is returned must not be run.
  const auto device = make_emulated_device(make_emulated_card(1));
  std::string why_none;
  AttentionLibrary* library = device->attention_library(why_none);
  return choose_attention(*device, library, why_none, ops, policy, file, 1);
}
bool contains(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

}  // namespace

TEST_SUITE("the choice between attention kernels") {
  TEST_CASE("a library that is right and faster is used, forward and backward, in both 16-bit types") {
    const MadeUpAttention right;
    // Several sequences and key heads: each has data of its own.
    const Op half = Attention{2, kSeq, 4, 2, kDim, true, DType::fp16};
    const AttentionChoices c = choose(right, {kForward, kBackward, half, Op(Add{4, DType::bf16})});
    REQUIRE(c.all.size() == 3);
    for (const AttentionChoice& each : c.all) {
      INFO(each.why);
      CHECK(each.library);
      CHECK(contains(each.why, "times as fast"));
    }
    CHECK(c.by_library.size() == 3);
    CHECK(contains(text(c), "forward a made-up library ("));
    CHECK(contains(text(c), "backward a made-up library ("));
  }

  TEST_CASE("one that errs is not used, whatever its mistake, and the report names it") {
    const auto refused = [](Fault fault, const char* words, const Op& op, AttentionPolicy policy = AttentionPolicy::same_bits) {
      MadeUpAttention what;
      what.fault = fault;
      const AttentionChoices c = choose(what, {op}, policy);
      INFO(static_cast<int>(fault), " ", c.all[0].why);
      CHECK_FALSE(c.all[0].library);
      CHECK(contains(c.all[0].why, words));
      CHECK(contains(text(c), "llmplan's (a made-up library: its result is wrong"));
    };
    for (Fault fault : {Fault::scale, Fault::mask, Fault::one_vector}) refused(fault, "is off by", kForward);
    for (Fault fault : {Fault::nan, Fault::unwritten}) refused(fault, "not finite", kForward);
    refused(Fault::one_vector, "is off by", kBackward);
    refused(Fault::nan, "not finite", kBackward, AttentionPolicy::library);  // even where it is asked for
  }

  TEST_CASE("one that gives other bits each time is used only where any order of sums is accepted") {
    MadeUpAttention what;
    what.fault = Fault::other_bits;
    const AttentionChoices c = choose(what, {kForward});
    CHECK_FALSE(c.all[0].library);
    CHECK(contains(c.all[0].why, "LLMPLAN_ATTENTION=fast"));
    CHECK(choose(what, {kForward}, AttentionPolicy::fast).all[0].library);
  }

  TEST_CASE("one that is slower is used only where it is asked for") {
    MadeUpAttention what;
    what.fault = Fault::slow;
    const AttentionChoices c = choose(what, {kForward});
    CHECK_FALSE(c.all[0].library);
    CHECK(contains(c.all[0].why, "times as fast as llmplan's"));
    CHECK(choose(what, {kForward}, AttentionPolicy::library).all[0].library);
  }

  TEST_CASE("one that refuses, fails or is absent leaves llmplan's own kernels, with the reason") {
    MadeUpAttention refuses, fails;
    refuses.refusal = "its plans need at least 9.0 MiB of workspace, and the program has 4.0";
    fails.fault = Fault::throws;
    CHECK(choose(refuses, {kBackward}).all[0].why == refuses.refusal);
    CHECK(contains(choose(fails, {kBackward}).all[0].why, "could not be checked: the made-up library fails"));
    const auto device = make_emulated_device(make_emulated_card(1));
    const AttentionChoices none = choose_attention(*device, nullptr, "no cuDNN here", {kForward}, AttentionPolicy::same_bits, "");
    CHECK(text(none) == "forward llmplan's (no cuDNN here)");
    CHECK(none.by_library.empty());
    const MadeUpAttention right;
    CHECK(choose(right, {kForward}, AttentionPolicy::own).by_library.empty());
    CHECK(right.prepared == 0);
  }

  TEST_CASE("shapes that libraries are known to get wrong, or cannot do, are not tried") {
    const auto forward = [](std::int64_t seq, std::int64_t dim, DType t, bool documents) { return Attention{1, seq, 2, 1, dim, true, t, documents}; };
    CHECK(why_not_asked(forward(128, 64, DType::bf16, false)).empty());
    for (auto [op, words] : {std::pair{forward(192, 64, DType::bf16, false), "128"}, {forward(128, 80, DType::bf16, false), "head_dim"},
                             {forward(128, 64, DType::fp32, false), "fp32"}, {forward(128, 64, DType::bf16, true), "documents"},
                             {forward(1 << 17, 64, DType::bf16, false), "65536"}}) {
      const MadeUpAttention right;
      const AttentionChoices c = choose(right, {op});
      CHECK(contains(c.all[0].why, words));
      CHECK(right.prepared == 0);
    }
    CHECK(contains(why_not_asked(AttentionGrad{1, 128, 2, 1, 64, true, DType::bf16}), "workspace"));
  }

  TEST_CASE("verdicts are kept: the next run chooses alike without trying again, and a damaged file costs only time") {
    const Scratch scratch;
    const std::string file = scratch / "attention.json", bad = scratch / "bad.json";
    const MadeUpAttention first, second, third, other;
    const AttentionChoices a = choose(first, {kForward}, AttentionPolicy::same_bits, file), b = choose(second, {kForward}, AttentionPolicy::same_bits, file);
    CHECK(first.runs > 0);
    CHECK(second.runs == 0);
    CHECK(second.prepared == 1);
    CHECK(a.all[0].why == b.all[0].why);
    CHECK(b.all[0].library);
    choose(other, {kForward}, AttentionPolicy::fast, file);  // another question
    CHECK(other.runs > 0);
    std::ofstream(file) << "{ not";
    choose(third, {kForward}, AttentionPolicy::same_bits, file);
    CHECK(third.runs > 0);
    const MadeUpAttention fourth;
    std::string written;
    std::getline(std::ifstream(file), written, '\0');
    const auto verdict = written.find("true");
    REQUIRE(verdict != std::string::npos);
    std::ofstream(file) << written.replace(verdict, 4, "7");
    choose(fourth, {kForward}, AttentionPolicy::same_bits, file);
    CHECK(fourth.runs > 0);
    MadeUpAttention wrong;
    wrong.fault = Fault::nan;
    choose(wrong, {kForward}, AttentionPolicy::same_bits, bad);
    const int runs = wrong.runs;
    CHECK_FALSE(choose(wrong, {kForward}, AttentionPolicy::same_bits, bad).all[0].library);
    CHECK(wrong.runs == runs);
  }

  TEST_CASE("LLMPLAN_ATTENTION takes four words, and refuses others") {
    CHECK(attention_policy(nullptr) == AttentionPolicy::same_bits);
    CHECK(attention_policy("") == AttentionPolicy::same_bits);
    CHECK(attention_policy("auto") == AttentionPolicy::same_bits);
    CHECK(attention_policy("fast") == AttentionPolicy::fast);
    CHECK(attention_policy("cudnn") == AttentionPolicy::library);
    CHECK(attention_policy("own") == AttentionPolicy::own);
    CHECK_THROWS_AS(attention_policy("cuDNN"), Error);
  }
}

TEST_SUITE("programs whose attention a library carries out") {
  // XDG_CACHE_HOME while it lives.
  struct CacheIn {
    std::string before = std::getenv("XDG_CACHE_HOME") ? std::getenv("XDG_CACHE_HOME") : "";
    explicit CacheIn(const Scratch& scratch) { ::setenv("XDG_CACHE_HOME", scratch.path.c_str(), 1); }
    ~CacheIn() { before.empty() ? ::unsetenv("XDG_CACHE_HOME") : ::setenv("XDG_CACHE_HOME", before.c_str(), 1); }
  };

  // Heads of 64 and sequences of 128, as libraries take them.
  Plan plan_for_libraries(const Strategy& s) {
    Plan p = gpu_plan(s);
    p.model.num_attention_heads = 2;
    p.model.num_key_value_heads = 2;
    p.model.head_dim = 64;
    p.model.num_hidden_layers = 1;
    p.model.intermediate_size = 256;  // leaves a workspace
    p.workload.seq = 128;
    p.model.max_position_embeddings = 128;
    p.workload.global_batch = 2;
    p.workload.precision = DType::bf16;
    return p;
  }

  TEST_CASE("one rank, and two that share the card, learn what the CPU learns, in the arena that was predicted") {
    const Scratch scratch;
    const CacheIn cache(scratch);
    Strategy two;
    two.tp = 2;
    for (const Strategy& s : {Strategy{}, two}) {
      INFO(describe(s));
      Plan plan = plan_for_libraries(s);
      predict(plan);
      MadeUpAttention right;
      right.identity = "made-up";
      // The verdict of an earlier run, which tried less often; ranks find it where they look for it.
      std::vector<Op> ops;
      for (const Instr& in : build(plan).programs[0].instrs) ops.push_back(in.op);
      choose(right, ops, AttentionPolicy::same_bits, scratch / "llmplan/attention-made-up.json");
      const int tried = right.runs;
      const Offer offer(right);
      EmulatedMachine machine;
      Ranks ranks(plan);
      CHECK(contains(ranks.attention(), "forward a made-up library"));
      CHECK(contains(ranks.attention(), "backward a made-up library"));
      CHECK(right.runs == tried);
      CHECK(ranks.allocated_arena(0) == plan.prediction.arena);
      const auto before = machine.count("attention");
      ranks.init(plan.workload.seed);
      const StepResult step = ranks.step({1, 1e-3}, tiny_source(1), false);
      CHECK(machine.count("attention") - before == 2 * s.devices() * plan.micro_batches());

      plan.cluster = local_ranks();
      plan.strategy = {};
      Ranks cpu(plan);
      cpu.init(plan.workload.seed);
      const StepResult expected = cpu.step({1, 1e-3}, tiny_source(1));
      // bf16 on both sides, rounded at the same places: half of its last place.
      CHECK(std::abs(step.loss / expected.loss - 1) < 0x1p-9);
      CHECK(std::abs(step.grad_norm / expected.grad_norm - 1) < 0x1p-7);
      for (auto& tensor : cpu.tensors())
        CHECK(distance(ranks.read(State::gradients, tensor.name), cpu.read(State::gradients, tensor.name)) < 0x1p-6);
    }
  }
}
