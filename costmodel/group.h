// Which ranks talk to each other, and over which links.
#pragma once

#include <cstdint>

#include "costmodel/cluster.h"
#include "costmodel/strategy.h"

namespace llmplan {

struct Group {
  std::int64_t size = 1;      // ranks
  std::int64_t stride = 1;    // between neighbours, in ranks
  std::int64_t per_node = 1;  // of them in one node
  std::int64_t nodes = 1;
};
Group group_of(Axis, const Cluster&, const Strategy&);

// The slower of the links from a pipeline stage to its neighbours.
const Link& pipeline_link(int stage, const Cluster&, const Strategy&);

}  // namespace llmplan
