// How long collectives and transfers take.
//
// Ranks are numbered tp fastest, then cp, dp, pp (Megatron), and fill the nodes in order. A group with
// `size` ranks that are `stride` apart has g = devices_per_node / stride of them in a node. NCCL runs one ring
// per NIC, each entering and leaving the node through another NIC, so a group that spans nodes is as fast as
// g NICs or as the links inside a node, whichever is less.
//
//   all_gather, reduce_scatter   (n−1)/n · S / bandwidth + (n−1) · latency                     (ring)
//   all_reduce                   the lesser of 2(n−1)/n · S / bandwidth + 2(n−1) · latency     (ring)
//                                and 2 · S / bandwidth + 2 ⌈log2 n⌉ · latency                  (double tree)
//   broadcast                    S / bandwidth + ⌈log2 n⌉ · latency
//   all_to_all                   what leaves the rank: (n−g)/n · S / NIC, or (n−1)/n · S inside the node
//   send, recv                   S / bandwidth + latency
// (Thakur, Rabenseifner, Gropp 2005; Sanders, Speck, Träff 2009 for the double tree.)
// On a machine where `calibrate` measured the collective for this number of ranks, time is interpolated
// between the two nearest sizes, in the logarithm of both.
#include <algorithm>
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

// Bandwidth of one rank in one direction, and the latency of one hop.
struct Path { double bandwidth, latency; };

double rate(const Link& link, double bytes) {
  const double r = link.bandwidth.value * link.efficiency.at(bytes);
  return r > 0 ? r : INFINITY;
}

Path path_of(const Group& group, const Cluster& c, double bytes) {
  Path inside{rate(c.intra, bytes), c.intra.latency.value};
  if (group.nodes == 1) return inside;
  const double nics = rate(c.inter, bytes) * static_cast<double>(group.per_node);
  return {group.per_node > 1 ? std::min(inside.bandwidth, nics) : nics, c.inter.latency.value};
}

Seconds collective_time(const Collective& op, const Group& group, const Cluster& c) {
  if (group.size <= 1) return {};
  const double n = static_cast<double>(group.size), bytes = static_cast<double>(op.size.value);
  const Path p = path_of(group, c, bytes);
  const double depth = std::bit_width(static_cast<std::uint64_t>(group.size - 1));  // ⌈log2 n⌉
  // A ring's n − 1 hops are mostly inside nodes.
  const double hops = group.nodes == 1 ? (n - 1) * c.intra.latency.value
                                       : static_cast<double>(group.nodes - 1) * c.inter.latency.value +
                                             (n - static_cast<double>(group.nodes)) * c.intra.latency.value;
  switch (op.kind) {
    case Collective::Kind::all_reduce:
      return {std::min(2 * (n - 1) / n * bytes / p.bandwidth + 2 * hops,
                       2 * bytes / p.bandwidth + 2 * depth * p.latency)};
    case Collective::Kind::all_gather:
    case Collective::Kind::reduce_scatter:
      return {(n - 1) / n * bytes / p.bandwidth + hops};
    case Collective::Kind::broadcast:
      return {bytes / p.bandwidth + depth * p.latency};
    case Collective::Kind::all_to_all: {
      const double inside = (n - 1) / n * bytes / rate(c.intra, bytes) + c.intra.latency.value;
      if (group.nodes == 1) return {inside};
      const double out = (n - static_cast<double>(group.per_node)) / n * bytes / rate(c.inter, bytes);
      return {std::max(inside, out + c.inter.latency.value)};
    }
  }
  return {};
}

Seconds hop_time(Bytes size, int stage, const Cluster& c, const Strategy& s) {
  const double bytes = static_cast<double>(size.value);
  const Link& link = pipeline_link(stage, c, s);
  return Seconds{bytes / rate(link, bytes)} + link.latency;
}

}  // namespace

Group group_of(Axis axis, const Cluster& c, const Strategy& s) {
  int64_t stride = 1, size = 1;
  switch (axis) {
    case Axis::tp: size = s.tp; break;
    case Axis::cp: stride = s.tp; size = s.cp; break;
    case Axis::ep: stride = s.tp; size = s.ep; break;
    case Axis::dp: stride = s.tp; size = s.cp * s.dp; break;  // gradients are also summed over cp
    case Axis::embedding: stride = s.tp * s.cp * s.dp * std::max<int64_t>(s.pp - 1, 1); size = std::min<int64_t>(s.pp, 2); break;
    case Axis::world: size = s.devices(); break;
  }
  Group g{size, stride, size, 1};
  if (c.device.cpu && c.nodes == 1) return g;  // ranks share one machine, however many they are
  g.per_node = std::clamp<int64_t>(c.devices_per_node / stride, 1, size);
  g.nodes = (size + g.per_node - 1) / g.per_node;
  return g;
}

const Link& pipeline_link(int stage, const Cluster& c, const Strategy& s) {
  if (c.nodes == 1) return c.intra;
  const int64_t stride = s.tp * s.cp * s.dp;
  const auto node = [&](int64_t at) { return at * stride / c.devices_per_node; };
  const int64_t here = stage;
  const bool leaves = (here > 0 && node(here - 1) != node(here)) ||
                      (here + 1 < s.pp && node(here + 1) != node(here));
  return leaves ? c.inter : c.intra;
}

Seconds transfer_time(const Op& op, const Cluster& c, const Strategy& s) {
  if (const auto* collective = std::get_if<Collective>(&op)) {
    const Group group = group_of(collective->axis, c, s);
    if (group.size <= 1) return {};
    if (!c.device.measured.empty())
      if (const auto t = from_measurements(op, group.size, c.device)) return *t;
    return collective_time(*collective, group, c);
  }
  if (!c.device.measured.empty())
    if (const auto t = from_measurements(op, 2, c.device)) return *t;
  if (const auto* send = std::get_if<Send>(&op)) return hop_time(send->size, send->stage, c, s);
  if (const auto* recv = std::get_if<Recv>(&op)) return hop_time(recv->size, recv->stage, c, s);
  return {};
}

}  // namespace llmplan
