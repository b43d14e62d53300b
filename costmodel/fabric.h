// The network between nodes, from the words of whoever describes it: "8x200Gb/s HDR IB", "EFA 3200", "RoCE 100G".
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "costmodel/cluster.h"

namespace llmplan {

// A word or phrase for a network and the link profile that it means; costmodel/validation/fabrics.yaml lists them.
// Where several stand in a text, the one that comes first in the list counts, so the narrower come first.
struct FabricWord {
  std::string word;              // lower case; matched between characters that are neither letters nor digits
  Link link;                     // what that profile holds
  std::string device;            // counts only for devices whose name begins so; empty: for all
  bool generic = false;          // says the kind but no rate: that of the device's usual network stands
};

struct Fabric {
  const FabricWord* word = nullptr;     // null: the text names no kind of network
  std::optional<BytesPerSecond> port;   // rate of one port, or of the whole node where `ports` is 0
  std::int64_t ports = 0;        // of a node; 0: not said
  bool per_device = false;       // the rate is that of each device
  std::string unread;            // words that mean nothing to this reader; empty: all understood
};
Fabric read_fabric(const std::string& text, const std::string& device, const std::vector<FabricWord>&);

// Makes the network between the cluster's nodes what the text says, and tells in what it had to fall back on the
// device's usual network; empty: in nothing.
std::string set_fabric(Cluster&, const std::string& text, std::int64_t devices_per_node, const std::vector<FabricWord>&);

}  // namespace llmplan
