// A device's file with the node it sits in.
#pragma once

#include <string>

#include "costmodel/cluster.h"
#include "costmodel/profiles/node.h"

namespace llmplan {

struct DeviceFile {
  Cluster cluster;  // one node, if the file describes one
  bool has_node = false;
};
DeviceFile read_device_file(const Node& root);
DeviceFile read_device_profile(const std::string& name_or_path);

}  // namespace llmplan
