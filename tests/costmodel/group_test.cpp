#include "costmodel/group.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <random>
#include <set>

#include "costmodel/estimate.h"

namespace llmplan {
namespace {

using std::int64_t;

Link wire(const char* name, double rate, double latency = 0) {
  Link link;
  link.name = name;
  link.bandwidth = {rate};
  link.latency = {latency};
  return link;
}

// Trays of 4, domains of 72, and the network above, as in an NVL72 rack.
Cluster racks(int64_t trays) {
  Cluster c;
  c.nodes = trays, c.devices_per_node = 4;
  c.intra = wire("nvlink", 900e9);
  c.tiers = {{72, wire("nvlink", 900e9)}};
  c.inter = wire("network", 50e9);
  return c;
}

Seconds gather(const Cluster& c, const Strategy& s, Axis axis) {
  return transfer_time(Collective{Collective::Kind::all_gather, axis, {1'000'000'000}, DType::bf16}, c, s);
}

TEST_CASE("a group that spans trays of one NVLink domain never sees the network") {
  Strategy s;
  s.tp = 4, s.dp = 16, s.pp = 2;
  CHECK(gather(racks(32), s, Axis::dp).value == doctest::Approx(15.0 / 16 * 1e9 / 900e9));
  s.dp = 32, s.pp = 1;  // 128 ranks: 18 of each group in a domain, their 18 NICs carry 900 GB/s, too
  CHECK(gather(racks(32), s, Axis::dp).value == doctest::Approx(31.0 / 32 * 1e9 / 900e9));
  s.tp = 8, s.dp = 16;  // 9 in a domain: 450 GB/s
  CHECK(gather(racks(32), s, Axis::dp).value == doctest::Approx(15.0 / 16 * 1e9 / 450e9));
}

TEST_CASE("tiers below the node count, too: a pair under a bridge is faster than the sockets") {
  Cluster c;
  c.devices_per_node = 8;
  c.tiers = {{2, wire("bridge", 300e9)}, {4, wire("socket", 20e9)}};
  c.intra = wire("across sockets", 10e9);
  Strategy s;
  s.tp = 2, s.dp = 4;
  CHECK(gather(c, s, Axis::tp).value == doctest::Approx(0.5 * 1e9 / 300e9));
  CHECK(gather(c, s, Axis::dp).value == doctest::Approx(0.75 * 1e9 / (2 * 10e9)));  // two enter each socket
  s.tp = 4, s.dp = 2;
  CHECK(gather(c, s, Axis::tp).value == doctest::Approx(0.75 * 1e9 / 40e9));
}

TEST_CASE("the levels of a group hold as many of its ranks as brute force finds in each tier") {
  std::mt19937 random(7);
  for (int trial = 0; trial < 500; ++trial) {
    const auto power = [&](int most) { return int64_t{1} << random() % static_cast<unsigned>(most + 1); };
    Cluster c;
    c.devices_per_node = 8;
    c.nodes = power(5);
    c.tiers = {{2, wire("pair", 4)}, {32, wire("leaf", 2)}, {64, wire("pod", 1.5)}};
    c.intra = wire("node", 3), c.inter = wire("spine", 1);
    const int64_t stride = power(6), size = std::min(power(6), c.devices() / stride);
    if (size < 1) continue;
    const Group g = group_of(size, stride, c);
    int64_t held = 1;
    for (std::size_t i = 0; i < g.depth; ++i) {
      CHECK(g.levels[i].members == held);
      held *= g.levels[i].units;
      // Ranks of the first group that share rank 0's unit of the tier with this link.
      int64_t together = 0, devices = 0;
      for_each_tier(c, [&](int64_t d, const Link& link) { if (&link == g.levels[i].link) devices = d; });
      for (int64_t r = 0; r < size; ++r) together += r * stride / devices == 0;
      CHECK(held == together);
    }
    CHECK(held == size);
  }
}

TEST_CASE("a pipeline hop uses the slowest tier that any rank of the stage must cross") {
  std::mt19937 random(11);
  for (int trial = 0; trial < 500; ++trial) {
    Cluster c = racks(54);  // three domains
    Strategy s;
    s.tp = int64_t{1} << random() % 3, s.dp = 1 + random() % 30, s.pp = 2 + random() % 4;
    if (s.devices() > c.devices()) continue;
    const int stage = static_cast<int>(random() % static_cast<unsigned>(s.pp));
    const int64_t ranks = s.tp * s.dp;
    bool leaves = false;
    for (int64_t r = 0; r < s.devices() - ranks; ++r)
      if ((r / ranks == stage || r / ranks == stage - 1) && r / 72 != (r + ranks) / 72) leaves = true;
    CAPTURE(ranks);
    CAPTURE(stage);
    CHECK(pipeline_hop(stage, c, s).link->name == (leaves ? "network" : "nvlink"));
  }
}

TEST_CASE("devices share their node's ports: a sender gets its port or its share of all ports, whichever is less") {
  Cluster c;
  c.nodes = 2, c.devices_per_node = 8;
  c.intra = wire("inside", 400e9);
  c.inter = wire("ports", 25e9);
  set_ports(c.inter, 4, 8);
  CHECK(c.inter.bandwidth.value == 12.5e9);
  const auto rate = [&](int64_t tp, int64_t pp) {
    Strategy s;
    s.tp = tp, s.pp = pp;
    double slowest = 1e18;
    for (int64_t i = 0; i < pp; ++i) slowest = std::min(slowest, pipeline_hop(static_cast<int>(i), c, s).bandwidth);
    return slowest;
  };
  CHECK(rate(8, 2) == 12.5e9);  // 8 senders, 4 ports
  CHECK(rate(4, 4) == 25e9);    // 4 senders: one port each
  CHECK(rate(1, 16) == 25e9);   // one sender cannot use more than its port
  Strategy s;
  s.tp = 8, s.dp = 2;           // 8 groups of two at once, each with half a port
  CHECK(gather(c, s, Axis::dp).value == doctest::Approx(0.5 * 1e9 / 12.5e9));
  s.tp = 1, s.dp = 16;          // one group, all ports
  CHECK(gather(c, s, Axis::dp).value == doctest::Approx(15.0 / 16 * 1e9 / 100e9));
}

TEST_CASE("a mesh gives a small group only the links between its members") {
  Cluster c;
  c.devices_per_node = 8;
  c.intra = wire("mesh", 448e9);
  c.intra.peers = 7;
  Strategy s;
  s.dp = 2, s.tp = 4;
  CHECK(gather(c, s, Axis::dp).value == doctest::Approx(0.5 * 1e9 / 64e9));
  s.dp = 8, s.tp = 1;
  CHECK(gather(c, s, Axis::dp).value == doctest::Approx(7.0 / 8 * 1e9 / 448e9));
}

}  // namespace
}  // namespace llmplan
