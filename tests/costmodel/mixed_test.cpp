// Clusters of several device types.
#include <doctest/doctest.h>

#include <cstdio>
#include <fstream>
#include <numeric>

#include "costmodel/error.h"
#include "costmodel/estimate.h"
#include "costmodel/profiles/profiles.h"
#include "costmodel/profiles/runtime_profile.h"

namespace llmplan {
namespace {

using std::int64_t;

Cluster mixed(std::initializer_list<std::pair<int64_t, const char*>> parts) {
  Cluster c;
  for (const auto& [nodes, device] : parts) {
    const Cluster one = read_cluster("2x8x" + std::string(device));
    if (c.parts.empty()) c = one, c.nodes = 0;
    c.nodes += nodes;
    c.parts.push_back({nodes, one.device, one.intra});
  }
  c.name = "mixed";
  return c;
}
Workload batches(int64_t n) {
  Workload w;
  w.seq = 4096, w.global_batch = n, w.runtime = "megatron-core";
  return w;
}
Strategy grid(int64_t tp, int64_t pp, int64_t dp) {
  Strategy s;
  s.tp = tp, s.pp = pp, s.dp = dp, s.zero = 1, s.sp = tp > 1;
  return s;
}
std::variant<Estimate, Infeasible> priced(const Cluster& c, const Strategy& s, const char* model = "llama-2-13b") {
  return estimate(read_model(model), c, batches(64), s, read_runtime("megatron-core"));
}

TEST_CASE("a cluster whose parts are alike costs what a cluster of that device does") {
  Strategy s = grid(2, 4, 4);
  s.layers_per_stage = {10, 10, 10, 10};
  const Estimate one = std::get<Estimate>(priced(read_cluster("4x8xa100-80g-sxm"), s));
  const Estimate two = std::get<Estimate>(priced(mixed({{2, "a100-80g-sxm"}, {2, "a100-80g-sxm"}}), s));
  CHECK(two.time.step == one.time.step);
  CHECK(two.time.optimizer == one.time.optimizer);
  CHECK(two.memory.peak == one.memory.peak);
  CHECK(two.mfu == doctest::Approx(one.mfu));
  s.layers_per_stage.clear();
  const Estimate dealt = std::get<Estimate>(priced(mixed({{2, "a100-80g-sxm"}, {2, "a100-80g-sxm"}}), s));
  CHECK(dealt.time.step.value <= one.time.step.value * 1.0001);  // the head's stage may hold a layer less
}

TEST_CASE("stages on slower devices get fewer layers, and that beats an even split") {
  const Cluster c = mixed({{1, "h100-80g-sxm"}, {1, "a100-80g-sxm"}});
  Strategy s = grid(4, 4, 1);
  const Estimate dealt = std::get<Estimate>(priced(c, s));
  const auto& split = dealt.strategy.layers_per_stage;
  REQUIRE(split.size() == 4);
  CHECK(std::accumulate(split.begin(), split.end(), int64_t{0}) == 40);
  CHECK(std::min(split[0], split[1]) > std::max(split[2], split[3]));
  s.layers_per_stage = {10, 10, 10, 10};
  const Estimate even = std::get<Estimate>(priced(c, s));
  CHECK(dealt.time.step.value < 0.9 * even.time.step.value);
  // The pace is the slower devices'.
  const Estimate slow = std::get<Estimate>(priced(read_cluster("2x8xa100-80g-sxm"), s));
  CHECK(even.time.step.value > 0.95 * slow.time.step.value);
}

TEST_CASE("each stage has the capacity of its own device, and layers go where there is room") {
  const Cluster c = mixed({{1, "h100-80g-sxm"}, {1, "a100-40g-sxm"}});
  Strategy s = grid(2, 8, 1);
  const Estimate e = std::get<Estimate>(priced(c, s));
  REQUIRE(e.memory_per_stage.size() == 8);
  CHECK(e.memory_per_stage[0].capacity == read_device("h100-80g-sxm").memory);
  CHECK(e.memory_per_stage[7].capacity == read_device("a100-40g-sxm").memory);
  CHECK(e.fits);
  s.layers_per_stage = {3, 3, 3, 3, 3, 3, 3, 19};
  CHECK(std::get<Estimate>(priced(read_cluster("2x8xh100-80g-sxm"), s)).fits);
  const Estimate heavy = std::get<Estimate>(priced(c, s));
  CHECK_FALSE(heavy.fits);  // 40 GB do not hold what 80 GB do
  CHECK(heavy.memory.capacity == read_device("a100-40g-sxm").memory);
}

TEST_CASE("a stage across types is refused with the sizes that keep to one") {
  const Cluster c = mixed({{1, "a800-80g-sxm"}, {2, "ascend-910b"}});
  const auto refused = priced(c, grid(4, 2, 3));
  const Infeasible& i = std::get<Infeasible>(refused);
  CHECK(i.constraint == "parts");
  CHECK(i.reason.find("a800-80g-sxm and ascend-910b") != std::string::npos);
  CHECK(i.hint.find("1 2 4 8") != std::string::npos);
  CHECK(std::holds_alternative<Estimate>(priced(c, grid(8, 3, 1))));
}

TEST_CASE("a cluster file lists parts, each with its device") {
  const std::string path = "/tmp/llmplan_mixed_test.yaml";
  const auto read = [&](const char* text) {
    std::ofstream(path) << text;
    return read_cluster(path);
  };
  const Cluster c = read("parts:\n  - {nodes: 8, device: a800-80g-sxm}\n  - {nodes: 4, device: ascend-910b}\n");
  CHECK(c.devices() == 96);
  CHECK(c.parts.size() == 2);
  CHECK(c.device.name == "a800-80g-sxm");
  CHECK(part_of(c, 63) == 0);
  CHECK(part_of(c, 64) == 1);
  CHECK(like_part(c, 1).device.name == "ascend-910b");
  for (const char* bad : {"parts: []\n", "parts:\n  - {nodes: 8}\n", "device: a800-80g-sxm\nparts:\n  - {nodes: 8, device: a800-80g-sxm}\n",
                          "parts:\n  - {nodes: 0, device: a800-80g-sxm}\n"}) {
    CAPTURE(bad);
    CHECK_THROWS_AS(read(bad), Error);
  }
  std::remove(path.c_str());
}

}  // namespace
}  // namespace llmplan
