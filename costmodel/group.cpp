// Ranks are numbered tp fastest, then cp, dp, pp (Megatron), and fill the tiers of the cluster in order.
#include "costmodel/group.h"

#include <algorithm>

namespace llmplan {
namespace {

using std::int64_t;

bool same_wire(const Link& a, const Link& b) {
  return &a == &b || (a.bandwidth == b.bandwidth && a.latency == b.latency && a.name == b.name);
}

}  // namespace

// A tier of D devices holds g = D / stride ranks of the group, at most all of them: whoever places a job gives
// it whole tiers.
Group group_of(int64_t size, int64_t stride, const Cluster& c) {
  Group g{size, stride, 0, {}};
  if (size <= 1) return g;
  if (c.device.cpu && c.nodes == 1) {  // ranks share one machine, however many they are
    g.levels[g.depth++] = {size, 1, &c.intra};
    return g;
  }
  int64_t held = 1;
  for_each_tier(c, [&](int64_t devices, const Link& link) {
    const int64_t here = devices >= c.devices() ? size : std::clamp<int64_t>(devices / stride, 1, size);
    if (here <= held || held == size) return;
    if (g.depth > 0 && same_wire(*g.levels[g.depth - 1].link, link)) {  // one switch, whatever stands between
      Level& last = g.levels[g.depth - 1];
      last.units = (here + last.members - 1) / last.members;
    } else if (g.depth < kMaxTiers) {
      g.levels[g.depth++] = {(here + held - 1) / held, held, &link};
    }
    held = here;
  });
  return g;
}

Group group_of(Axis axis, const Cluster& c, const Strategy& s) {
  switch (axis) {
    case Axis::tp: return group_of(s.tp, 1, c);
    case Axis::cp: return group_of(s.cp, s.tp, c);
    case Axis::ep: return group_of(s.ep, s.expert_tp(), c);
    case Axis::dp: return group_of(s.cp * s.dp, s.tp, c);  // gradients are also summed over cp
    case Axis::embedding:
      return group_of(std::min<int64_t>(s.pp, 2), s.tp * s.cp * s.dp * std::max<int64_t>(s.pp - 1, 1), c);
    case Axis::world: return group_of(s.devices(), 1, c);
  }
  return {};
}

// A node of D devices with K ports of rate B: when a of them send at once, each gets min(B, K·B/a).
Hop pipeline_hop(int stage, const Cluster& c, const Strategy& s) {
  const int64_t ranks = s.tp * s.cp * s.dp;  // of a stage
  const Link* slowest = &c.intra;
  bool inside = c.device.cpu && c.nodes == 1;  // whether the tier looked at last holds both stages
  for_each_tier(c, [&](int64_t devices, const Link& link) {
    if (inside) return;
    slowest = &link;
    const auto leaves = [&](int64_t from) {  // the first or the last rank of a stage, on its way to the next
      return from / devices != (from + ranks) / devices || (from + ranks - 1) / devices != (from + 2 * ranks - 1) / devices;
    };
    inside = devices >= c.devices() || !((stage > 0 && leaves((stage - 1) * ranks)) || (stage + 1 < s.pp && leaves(stage * ranks)));
  });
  double rate = slowest->bandwidth.value;
  if (slowest->peers > 1) rate /= slowest->peers;  // one neighbour is one link of a mesh
  if (slowest->ports > 0) {
    const double devices = static_cast<double>(c.devices_per_node), ports = slowest->ports;
    const double port = rate * devices / ports, senders = static_cast<double>(std::min(ranks, c.devices_per_node));
    rate = std::min(port, ports * port / senders);
  }
  return {slowest, rate};
}

}  // namespace llmplan
