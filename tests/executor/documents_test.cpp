// Packed documents: what a document computes does not depend on what stands beside it in the sequence.
#include <doctest/doctest.h>

#include <map>

#include "executor/documents.h"
#include "executor/loader.h"
#include "executor/safetensors.h"
#include "planner/simulate.h"
#include "tests/executor/kernel_fixture.h"
#include "tests/executor/tiny_plan.h"

namespace llmplan {
namespace {

using Tensors = std::map<std::string, std::vector<float>>;
Tensors gradients(const Ranks& ranks) {
  Tensors out;
  for (auto& t : ranks.tensors()) out[t.name] = ranks.read(State::gradients, t.name);
  return out;
}

Plan plan_of(std::int64_t seq, std::int64_t batch, bool documents, Strategy s = {}) {
  Plan p = tiny_plan(s);
  p.workload.seq = seq;
  p.workload.global_batch = batch;
  p.workload.documents = documents;
  return p;
}

std::int32_t token(std::int64_t document, std::int64_t t) {
  return static_cast<std::int32_t>(mix64(static_cast<std::uint64_t>(document), static_cast<std::uint64_t>(t)) % 131);
}
// Tokens of a document, and what follows each; the last has nothing to predict.
void write_document(std::int64_t document, std::int64_t length, std::span<std::int32_t> ids, std::span<std::int32_t> targets) {
  for (std::int64_t t = 0; t < length; ++t) {
    ids[static_cast<std::size_t>(t)] = token(document, t);
    targets[static_cast<std::size_t>(t)] = t + 1 < length ? token(document, t + 1) : kDocumentEnd;
  }
}

constexpr std::int64_t kLengths[4][4] = {{5, 40, 1, 50}, {96, 0, 0, 0}, {64, 32, 0, 0}, {1, 1, 93, 1}};
SampleSource packed() {
  return [](std::int64_t i, std::span<std::int32_t> ids, std::span<std::int32_t> targets) {
    std::size_t at = 0;
    for (std::int64_t d = 0; d < 4; ++d) {
      const auto n = static_cast<std::size_t>(kLengths[i][d]);
      write_document(4 * i + d, kLengths[i][d], ids.subspan(at, n), targets.subspan(at, n));
      at += n;
    }
  };
}

TEST_CASE("A marked target ends a document, and the next token starts one") {
  std::vector<std::int32_t> targets{3, kDocumentEnd, kDocumentEnd, -1, 7, kDocumentEnd}, starts(6);
  document_starts(targets, starts);
  CHECK(starts == std::vector<std::int32_t>{0, 0, 2, 3, 3, 3});
}

// Every document alone, in a sequence of its own padded to the same length behind it, has the same loss and gradients.
TEST_CASE("Packed documents have the loss and the gradients of each document alone") {
  Ranks together(plan_of(96, 4, true));
  together.init(1);
  const StepResult packed_result = together.step({1, 0}, packed());
  Ranks apart(plan_of(96, 16, false));
  apart.init(1);
  const StepResult alone = apart.step({1, 0}, [](std::int64_t i, std::span<std::int32_t> ids, std::span<std::int32_t> targets) {
    std::fill(ids.begin(), ids.end(), 0);
    std::fill(targets.begin(), targets.end(), -1);
    write_document(i, kLengths[i / 4][i % 4], ids, targets);
  });
  CHECK(packed_result.counted == alone.counted);
  // The same products; sums over rows are taken in another order.
  CHECK(std::abs(packed_result.loss / alone.loss - 1) < 1e-6);
  CHECK(std::abs(packed_result.grad_norm / alone.grad_norm - 1) < 2e-6);
  const Tensors a = gradients(together), b = gradients(apart);
  for (auto& [name, expected] : b) {
    std::vector<float> scaled = expected;
    for (float& g : scaled) g *= 4;  // divided by the tokens of the batch, of which there are four times as many
    INFO(name);
    CHECK(distance(a.at(name), scaled) < 3e-6);
  }
  // And without the mask they would not.
  Ranks unmasked(plan_of(96, 4, false));
  unmasked.init(1);
  unmasked.step({1, 0}, packed());
  CHECK(distance(gradients(unmasked).at("model.layers.3.self_attn.v_proj.weight"), a.at("model.layers.3.self_attn.v_proj.weight")) > 0.05);
}

TEST_CASE("Every kind of split and recomputation gives one rank's gradients of packed documents") {
  Ranks one(plan_of(96, 4, true));
  one.init(1);
  const double loss = one.step({1, 0}, packed()).loss;
  const Tensors expected = gradients(one);
  Strategy dp, tp, pp, all, recompute;
  dp.dp = 2, dp.zero = 1;
  tp.tp = 2, tp.sp = true, tp.micro_batch = 2;
  pp.pp = 4;  // stages in the middle need the boundaries, too
  all.tp = all.pp = all.dp = 2, all.sp = true;
  recompute.micro_batch = 4, recompute.recompute = Recompute::full;
  for (const Strategy& s : {dp, tp, pp, all, recompute}) {
    INFO(describe(s));
    Plan plan = plan_of(96, 4, true, s);
    predict(plan);
    Ranks ranks(plan);
    Bytes most{};
    for (int r = 0; r < ranks.size(); ++r) most = std::max(most, ranks.allocated_arena(r));
    CHECK(most == plan.prediction.arena);
    ranks.init(1);
    CHECK(std::abs(ranks.step({1, 0}, packed()).loss / loss - 1) < 5e-6);
    for (auto& [name, gradient] : gradients(ranks)) CHECK(distance(gradient, expected.at(name)) < 3e-6);
  }
}

TEST_CASE("Attention over packed documents is PyTorch's with a block-diagonal mask, forward and backward") {
  const SafeTensors file(LLMPLAN_SOURCE_DIR "/tests/executor/golden/documents/attention.safetensors");
  const auto read = [&](const char* name) { return file.read(*file.find(name)); };
  const std::int64_t batch = 2, seq = 150, heads = 2, kv_heads = 1, head_dim = 24;
  std::vector<std::int32_t> starts;
  for (std::int64_t s : file.read_integers(*file.find("starts"))) starts.push_back(static_cast<std::int32_t>(s));
  const std::vector<float> qkv = read("qkv"), dout = read("dout");
  REQUIRE(static_cast<std::int64_t>(starts.size()) == batch * seq);
  REQUIRE(static_cast<std::int64_t>(qkv.size()) == batch * seq * (heads + 2 * kv_heads) * head_dim);
  for (int threads : {1, 4}) {
    test::Caller call(threads);
    std::vector<float> out(dout.size()), lse(static_cast<std::size_t>(batch * heads * seq)), dqkv(qkv.size()), delta(lse.size());
    call(Attention{batch, seq, heads, kv_heads, head_dim, true, DType::fp32, true}, {test::in(qkv), test::in(starts)},
         {test::out(out), test::out(lse)});
    call(AttentionGrad{batch, seq, heads, kv_heads, head_dim, true, DType::fp32, true},
         {test::in(qkv), test::in(out), test::in(lse), test::in(dout), test::in(starts)}, {test::out(dqkv), test::out(delta)});
    CHECK(distance(out, read("out")) < 1e-6);
    CHECK(distance(dqkv, read("dqkv")) < 2e-6);
  }
}

// Tokens 0, 1, 2, … in documents of the given lengths.
class Counting : public Tokens {
 public:
  explicit Counting(std::vector<std::int64_t> lengths) {
    for (std::int64_t n : lengths) ends_.push_back((ends_.empty() ? 0 : ends_.back()) + n);
  }
  std::int64_t size() const override { return ends_.back(); }
  void read(std::int64_t first, std::span<std::int32_t> out) const override {
    for (std::size_t i = 0; i < out.size(); ++i) out[i] = static_cast<std::int32_t>(first) + static_cast<std::int32_t>(i);
  }
  std::int64_t document_end(std::int64_t at) const override { return *std::upper_bound(ends_.begin(), ends_.end(), at); }
  std::string description() const override { return "counting"; }

 private:
  std::vector<std::int64_t> ends_;
};

TEST_CASE("The loader marks the last token of every document, and of no other") {
  const Counting tokens({7, 1, 50, 0, 3, 16, 16, 200});
  const Loader loader(tokens, 16, 0, 1, true), plain(tokens, 16, 0, 1);
  std::vector<std::int32_t> ids(16), targets(16), unmarked(16);
  int marks = 0;
  for (std::int64_t n = 0; n < 2 * loader.samples_per_epoch(); ++n) {
    loader.train(n, ids, targets);
    plain.train(n, ids, unmarked);
    for (std::size_t t = 0; t < 16; ++t) {
      const bool last = tokens.document_end(ids[t]) == ids[t] + 1;
      CHECK(targets[t] == (last ? kDocumentEnd : unmarked[t]));
      CHECK(unmarked[t] == ids[t] + 1);
      marks += last;
    }
  }
  CHECK(marks > 8);
}

}  // namespace
}  // namespace llmplan
