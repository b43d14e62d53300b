// How long collectives and transfers take.
//
// A group of n ranks is a tree of levels (group.h): a level joins u units of g ranks each over one link, whose
// rate B is what one device gets while all devices send. So the g ranks of a unit move g·B together, and NICs
// that groups share are counted once: a node with K ports for D devices has B = K·port/D, and of the D/g groups
// in it each gets g·B. NCCL runs one ring per NIC, each entering and leaving the node through another one;
// a ring is as fast as the slowest level, min g·B.
//
//   all_gather, reduce_scatter   (n−1)/n · S / min(g·B) + n−1 hops                          (ring)
//   all_reduce, the least of
//     ring                       2(n−1)/n · S / min(g·B) + 2(n−1) hops
//     double tree, pipelined     max over levels of k·S / (g·B), k = 1 for two units, else 2; 2·Σ⌈log2 u⌉ hops
//     the same, reduced by the   level 0: (1 + 1/u)·S / B of the switch: it reads a rank's data once, and the
//     switch (NVLS)              rank writes one share of the result; the levels above as in the tree
//     level by level             Σ 2(u−1)/u · S / (g·B): reduce-scatter inside, all-reduce across with every
//                                NIC, all-gather inside; the top level as ring or tree
//   broadcast                    S / min(g·B) + Σ⌈log2 u⌉ hops
//   all_to_all                   max over levels of (n−g)/n · S / B: what leaves a rank's unit
//   send, recv                   S / B + one hop
// (Thakur, Rabenseifner, Gropp 2005; Sanders, Speck, Träff 2009 for the double tree; for NVLS the count of bytes
// agrees with nccl-tests on 5 to 8 GPUs of an H200 node within 2 %, tests/costmodel/collective_test.cpp.)
//
// A hop costs its link's latency, a collective its setup once. Rates follow the link's efficiency at S/n bytes, which
// is what a rank sends in one step of a ring; measured curves hold NCCL's choice of protocol and channels.
// On a machine where `calibrate` measured the collective for this number of ranks, time is interpolated
// between the two nearest sizes, in the logarithm of both.
#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <optional>

#include "costmodel/estimate.h"
#include "costmodel/group.h"

namespace llmplan {
namespace {

using std::int64_t;

bool same_kind(const Op& a, const Op& b) {
  if (a.index() != b.index()) return false;
  const auto* x = std::get_if<Collective>(&a);
  return !x || x->kind == std::get<Collective>(b).kind;
}

std::optional<Seconds> from_measurements(const Op& op, int64_t ranks, const Device& device) {
  const double bytes = std::max<double>(static_cast<double>(bytes_moved(op).value), 1);
  struct Point { double bytes = 0, time = 0; };
  Point below, above;  // nearest sizes on both sides
  for (const MeasuredOp& m : device.measured) {
    if (m.ranks != ranks || !same_kind(m.op, op) || !(m.time.value > 0)) continue;
    const Point p{std::max<double>(static_cast<double>(bytes_moved(m.op).value), 1), m.time.value};
    if (p.bytes == bytes) return m.time;
    if (p.bytes < bytes && p.bytes > below.bytes) below = p;
    if (p.bytes > bytes && (above.bytes == 0 || p.bytes < above.bytes)) above = p;
  }
  if (below.bytes == 0 && above.bytes == 0) return {};
  if (above.bytes == 0) return Seconds{below.time * bytes / below.bytes};  // beyond the largest: its rate
  if (below.bytes == 0) return Seconds{above.time};                       // below the smallest: latency
  const double t = std::log(bytes / below.bytes) / std::log(above.bytes / below.bytes);
  return Seconds{below.time * std::pow(above.time / below.time, t)};
}

double rate(const Link& link, double bandwidth, double message) {
  const double r = bandwidth * link.efficiency.at(message);
  return r > 0 ? r : INFINITY;
}

struct Wire {                     // a level of a group
  double units = 1, members = 1;
  double rate = 0;                // of one rank
  double hop = 0;                 // seconds
  double all() const { return members * rate; }
};
struct Wires {
  std::array<Wire, kMaxTiers> level;
  std::size_t depth = 0;
  double ranks = 1, setup = 0;
  double ring = INFINITY;         // rate of the slowest level
  double rotation = 0;            // seconds of n − 1 hops round the ring
  double depth_hops = 0;          // seconds from a leaf of a tree to its root
};

double log2_up(double units) { return std::bit_width(static_cast<std::uint64_t>(units) - 1); }

Wires wires_of(const Group& g, double bytes) {
  Wires w;
  w.depth = g.depth;
  w.ranks = static_cast<double>(g.size);
  for (std::size_t i = 0; i < g.depth; ++i) {
    const Level& level = g.levels[i];
    const Link& link = *level.link;
    Wire& wire = w.level[i];
    wire.units = static_cast<double>(level.units);
    wire.members = static_cast<double>(level.members);
    wire.rate = rate(link, link.bandwidth.value, bytes / w.ranks);
    if (link.peers > 0) wire.rate *= std::min(1.0, (wire.units - 1) / link.peers);
    wire.hop = link.latency.value;
    w.setup = std::max(w.setup, link.setup.value);
    w.ring = std::min(w.ring, wire.all());
    const double above = i + 1 < g.depth ? static_cast<double>(g.levels[i + 1].members) : w.ranks;
    w.rotation += (w.ranks / wire.members - w.ranks / above) * wire.hop;
    w.depth_hops += log2_up(wire.units) * wire.hop;
  }
  return w;
}

double tree_bytes(double units) { return units == 2 ? 1 : 2; }

double all_reduce(const Wires& w, const Group& g, double bytes, bool rings_only) {
  double best = 2 * (w.ranks - 1) / w.ranks * bytes / w.ring + 2 * w.rotation;
  if (rings_only && w.depth > 1) return best;

  double above = 0;  // of a tree: what the levels above the first take
  for (std::size_t i = 1; i < w.depth; ++i) above = std::max(above, tree_bytes(w.level[i].units) * bytes / w.level[i].all());
  const Wire& first = w.level[0];
  best = std::min(best, std::max(above, tree_bytes(first.units) * bytes / first.all()) + 2 * w.depth_hops);
  if (const Link& link = *g.levels[0].link; link.reduces_in_switch > 0 && first.units > 2) {
    const double switched = (1 + 1 / first.units) * bytes / (first.rate * link.reduces_in_switch);
    const double hops = w.depth_hops - (log2_up(first.units) - 1) * first.hop;
    best = std::min(best, std::max(above, switched) + 2 * hops);
  }
  if (w.depth > 1) {
    double by_level = 0;
    for (std::size_t i = 0; i < w.depth; ++i) {
      const Wire& wire = w.level[i];
      const double ring = 2 * (wire.units - 1) / wire.units * bytes / wire.all() + 2 * (wire.units - 1) * wire.hop;
      const double tree = tree_bytes(wire.units) * bytes / wire.all() + 2 * log2_up(wire.units) * wire.hop;
      by_level += i + 1 < w.depth ? ring : std::min(ring, tree);
    }
    best = std::min(best, by_level);
  }
  return best;
}

double all_to_all(const Wires& w, double bytes) {
  double slowest = 0;
  for (std::size_t i = 0; i < w.depth; ++i)
    slowest = std::max(slowest, (w.ranks - w.level[i].members) / w.ranks * bytes / w.level[i].rate + w.level[i].hop);
  return slowest;
}

Seconds collective_time(const Collective& op, const Group& group, bool rings_only) {
  const double bytes = static_cast<double>(op.size.value);
  const Wires w = wires_of(group, bytes);
  switch (op.kind) {
    case Collective::Kind::all_reduce: return {w.setup + all_reduce(w, group, bytes, rings_only)};
    case Collective::Kind::all_gather:
    case Collective::Kind::reduce_scatter: return {w.setup + (w.ranks - 1) / w.ranks * bytes / w.ring + w.rotation};
    case Collective::Kind::broadcast: return {w.setup + bytes / w.ring + w.depth_hops};
    case Collective::Kind::all_to_all: return {w.setup + all_to_all(w, bytes)};
  }
  return {};
}

Seconds hop_time(Bytes size, int stage, const Cluster& c, const Strategy& s) {
  const double bytes = static_cast<double>(size.value);
  const Hop hop = pipeline_hop(stage, c, s);
  return Seconds{bytes / rate(*hop.link, hop.bandwidth, bytes)} + hop.link->latency + hop.link->setup;
}

}  // namespace

double group_seconds(Collective::Kind kind, double bytes, const Group& group, const Cluster& c, bool rings_only) {
  if (group.size <= 1 || bytes < 1) return 0;
  const Collective op{kind, Axis::dp, {static_cast<int64_t>(std::min(bytes, 9e18))}, DType::bf16};
  if (!c.device.measured.empty())
    if (const auto t = from_measurements(op, group.size, c.device)) return t->value;
  return collective_time(op, group, rings_only).value;
}

Seconds transfer_time(const Op& op, const Cluster& c, const Strategy& s, bool rings_only) {
  if (const auto* collective = std::get_if<Collective>(&op)) {
    const Group group = group_of(collective->axis, c, s);
    if (group.size <= 1) return {};
    if (!c.device.measured.empty())
      if (const auto t = from_measurements(op, group.size, c.device)) return *t;
    return collective_time(*collective, group, rings_only);
  }
  if (!c.device.measured.empty())
    if (const auto t = from_measurements(op, 2, c.device)) return *t;
  if (const auto* send = std::get_if<Send>(&op)) return hop_time(send->size, send->stage, c, s);
  if (const auto* recv = std::get_if<Recv>(&op)) return hop_time(recv->size, recv->stage, c, s);
  return {};
}

}  // namespace llmplan
