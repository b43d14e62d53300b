// Which ranks talk to each other, and over which links.
#pragma once

#include <array>
#include <cstdint>

#include "costmodel/cluster.h"
#include "costmodel/strategy.h"

namespace llmplan {

// A group seen as a tree: level 0 joins ranks, the next one joins what level 0 made, and so on up to the level
// that holds all ranks. Levels at which a group gains no rank are left out.
struct Level {
  std::int64_t units = 1;        // joined here
  std::int64_t members = 1;      // ranks in one of them
  const Link* link = nullptr;    // between them
};
struct Group {
  std::int64_t size = 1;         // ranks
  std::int64_t stride = 1;       // between neighbours, in ranks
  std::size_t depth = 0;
  std::array<Level, kMaxTiers> levels{};
};
Group group_of(Axis, const Cluster&, const Strategy&);
Group group_of(std::int64_t size, std::int64_t stride, const Cluster&);

// Seconds of a collective of `bytes` over an explicit group.
double group_seconds(Collective::Kind, double bytes, const Group&, const Cluster&, bool rings_only = false);

// The slowest link from a pipeline stage to its neighbours, and what one device of the stage gets of it.
struct Hop {
  const Link* link = nullptr;
  double bandwidth = 0;          // bytes per second, efficiency not counted
};
Hop pipeline_hop(int stage, const Cluster&, const Strategy&);

}  // namespace llmplan
