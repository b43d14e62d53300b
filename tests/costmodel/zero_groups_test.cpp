// Hierarchical ZeRO and experts laid over tensor-parallel ranks: what they hold, send and refuse.
#include <doctest/doctest.h>

#include "costmodel/estimate.h"
#include "costmodel/profiles/profiles.h"
#include "costmodel/profiles/runtime_profile.h"

namespace llmplan {
namespace {

using std::int64_t;

Estimate priced(const char* model, const char* cluster, const Strategy& s, int64_t global_batch, const char* runtime = "deepspeed-zero") {
  Workload w;
  w.seq = 2048, w.global_batch = global_batch, w.runtime = runtime;
  const auto result = estimate(read_model(model), read_cluster(cluster), w, s, read_runtime(runtime));
  if (const auto* bad = std::get_if<Infeasible>(&result)) FAIL(bad->reason);
  return std::get<Estimate>(result);
}
Strategy data_parallel(int64_t dp, int zero, int64_t shard = 0) {
  Strategy s;
  s.dp = dp, s.zero = zero, s.zero_groups.shard = shard;
  return s;
}
// Bytes on the wire of one device and step.
double sent(const Estimate& e, const char* group, const char* kind) {
  double bytes = 0;
  for (const Communication& c : e.communication)
    if (c.group == group && c.collective == kind) bytes += static_cast<double>(c.bytes_per_device.value);
  return bytes;
}

TEST_CASE("HSDP holds what ZeRO on one of its groups would, and gathers at that group's speed") {
  for (int zero : {1, 2, 3}) {
    CAPTURE(zero);
    const Estimate small = priced("llama-2-7b", "8xa100-80g-sxm", data_parallel(8, zero), 8);
    const Estimate hybrid = priced("llama-2-7b", "64xa100-80g-sxm", data_parallel(64, zero, 8), 64);
    const Estimate whole = priced("llama-2-7b", "64xa100-80g-sxm", data_parallel(64, zero), 64);
    CHECK(hybrid.memory.weights == small.memory.weights);
    CHECK(hybrid.memory.gradients == small.memory.gradients);
    CHECK(hybrid.memory.optimizer == small.memory.optimizer);
    CHECK(whole.memory.optimizer < hybrid.memory.optimizer);
    double gather_small = 0, gather_hybrid = 0;
    for (const Communication& c : small.communication) gather_small += c.collective == "all_gather" ? c.seconds.value : 0;
    for (const Communication& c : hybrid.communication) gather_hybrid += c.collective == "all_gather" ? c.seconds.value : 0;
    CHECK(gather_hybrid == doctest::Approx(gather_small));
    CHECK(sent(small, "dp", "all_reduce") == 0);
    // Between groups each rank adds up its eighth of the gradients.
    CHECK(sent(hybrid, "dp", "all_reduce") == doctest::Approx(sent(whole, "dp", "reduce_scatter") / 8));
  }
}

TEST_CASE("one group of all ranks is ZeRO itself") {
  const Estimate plain = priced("llama-2-7b", "16xa100-80g-sxm", data_parallel(16, 3), 16);
  const Estimate grouped = priced("llama-2-7b", "16xa100-80g-sxm", data_parallel(16, 3, 16), 16);
  CHECK(plain.time.step == grouped.time.step);
  CHECK(plain.memory.peak == grouped.memory.peak);
}

// Wang et al. 2023 (arXiv 2306.10209), table 1: of 3M that ZeRO-3 sends between nodes, quantised weights halve the
// gathers to M/2 each, the second copy removes backward's, and 4-bit gradients leave M/4.
TEST_CASE("ZeRO++ sends what its paper counts, and its second copy costs what it says") {
  Strategy s = data_parallel(64, 3);
  const Estimate plain = priced("llama-2-7b", "64xa100-80g-sxm", s, 64);
  s.zero_groups.weight_bits = 8;
  s.zero_groups.gradient_bits = 4;
  s.zero_groups.secondary = 8;
  const Estimate plus = priced("llama-2-7b", "64xa100-80g-sxm", s, 64);
  CHECK(sent(plus, "dp", "all_gather") == doctest::Approx(sent(plain, "dp", "all_gather") / 2));
  CHECK(sent(plus, "dp", "reduce_scatter") == doctest::Approx(sent(plain, "dp", "reduce_scatter") / 4));
  const double parameters = static_cast<double>(plain.memory.weights.value) * 64 / 2;
  CHECK(static_cast<double>((plus.memory.weights - plain.memory.weights).value) == doctest::Approx(parameters * 2 / 8).epsilon(1e-6));
  CHECK(plus.time.step < plain.time.step);
}

TEST_CASE("hierarchical forms that cannot be are refused with those that can") {
  const ModelConfig m = read_model("llama-2-7b");
  const Cluster c = read_cluster("16xa100-80g-sxm");
  Workload w;
  w.seq = 2048, w.global_batch = 16, w.runtime = "fsdp2";
  const auto refused = [&](const Strategy& s) { return check(m, c, w, s); };
  CHECK(refused(data_parallel(16, 3, 3)).hint == "valid zero_shard: 1 2 4 8 16");
  CHECK(refused(data_parallel(16, 0, 8)).constraint == "zero");
  CHECK(refused(data_parallel(16, 1, 8)).constraint.empty());
  Strategy s = data_parallel(16, 2);
  s.zero_groups.secondary = 8;
  CHECK(refused(s).constraint == "zero");
  s.zero = 3;
  CHECK(refused(s).constraint.empty());
  s.zero_groups.shard = 4;  // a copy wider than the group that it copies
  CHECK(refused(s).constraint == "zero");
  s.zero_groups = {};
  s.zero_groups.weight_bits = 3;
  CHECK(refused(s).hint == "valid zero_weight_bits: 4 8");
  s.zero_groups = {};
  s.zero_groups.shard = -1;
  CHECK(refused(s).constraint == "range");
  s.zero_groups = {};
  s.etp = 1;
  CHECK(refused(s).constraint == "etp");
  CHECK(why_not_lowerable(m, w, data_parallel(16, 1, 8)) == "hierarchical ZeRO");
}

TEST_CASE("experts may be laid over tensor-parallel ranks: ep·etp divides tp·cp·dp") {
  const ModelConfig m = read_model("mixtral-8x7b");
  const Cluster c = read_cluster("16xh100-80g-sxm");
  Workload w;
  w.seq = 2048, w.global_batch = 16, w.runtime = "megatron-core";
  Strategy s;
  s.tp = 4, s.dp = 4, s.sp = true, s.ep = 8;
  const Infeasible i = check(m, c, w, s);
  CHECK(i.constraint == "ep");  // etp is 4: no room for 8
  CHECK(i.hint.find("etp 1") != std::string::npos);
  s.etp = 1;
  CHECK(check(m, c, w, s).constraint.empty());
  s.etp = 2;
  CHECK(check(m, c, w, s).constraint.empty());
  s.etp = 4;
  CHECK(check(m, c, w, s).constraint == "ep");
  s.etp = 3;
  CHECK(check(m, c, w, s).constraint == "etp");
}

TEST_CASE("a rank holds its part of the experts, however ep and etp share it, and the optimizer is divided among its copies") {
  // 16 ranks hold 8 experts: ep·etp ranks a copy.
  int64_t weights = 0;
  for (const auto& [ep, etp, copies] : {std::tuple{8, 1, 2}, {4, 2, 2}, {2, 4, 2}, {4, 1, 4}, {2, 2, 4}}) {
    CAPTURE(ep);
    CAPTURE(etp);
    Strategy s;
    s.tp = 4, s.dp = 4, s.sp = true, s.zero = 1, s.ep = ep, s.etp = etp;
    const Estimate e = priced("mixtral-8x7b", "16xh100-80g-sxm", s, 16, "megatron-core");
    if (copies == 2) {  // the same sum of experts and of what is not
      if (weights == 0) weights = e.memory.weights.value;
      CHECK(e.memory.weights.value == weights);
    } else {
      CHECK(e.memory.weights.value > weights);
    }
    // All states of all ranks together are those of one model, whatever the layout: dense ones over 4, experts
    // over their copies.
    const double all = static_cast<double>(e.memory.optimizer.value) * 16;
    CHECK(all == doctest::Approx(12.0 * 46.7e9).epsilon(0.01));  // fp32 master and two moments; norms are not split
  }
}

TEST_CASE("experts that are not split by tp need no gather, and their copies are summed over the ranks that hold them") {
  Strategy s;
  s.tp = 4, s.dp = 4, s.sp = true, s.zero = 1, s.ep = 8, s.etp = 1;
  const Estimate apart = priced("mixtral-8x7b", "16xh100-80g-sxm", s, 16, "megatron-core");
  s.ep = 2, s.etp = 4;
  const Estimate split = priced("mixtral-8x7b", "16xh100-80g-sxm", s, 16, "megatron-core");
  CHECK(sent(apart, "tp", "all_gather") < sent(split, "tp", "all_gather"));
  CHECK(sent(apart, "ep", "all_to_all") == doctest::Approx(sent(split, "ep", "all_to_all")));
}

}  // namespace
}  // namespace llmplan
