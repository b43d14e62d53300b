// "local", "8xh100-80g-sxm", "6x4xa100-80g-sxm", or a YAML file.
#include <filesystem>

#include <fmt/format.h>

#include "costmodel/profiles/devices.h"
#include "costmodel/profiles/files.h"
#include "costmodel/profiles/profile_fields.h"
#include "costmodel/profiles/profiles.h"
#include "costmodel/profiles/quantity.h"

namespace llmplan {
namespace {

constexpr std::int64_t most_devices = 10'000'000;

[[noreturn]] void bad_cluster(const std::string& text, const std::string& why) {
  throw Error("E0205", Exit::usage, fmt::format("cluster '{}': {}", text.substr(0, 80), why),
              "write 'local', '8xh100-80g-sxm', '4x8xh100-80g-sxm' (nodes x devices per node x "
              "device) or a YAML file");
}

// Removes "123x" from the front; 0 if there is none.
std::int64_t take_count(const std::string& whole, std::string& rest) {
  const std::size_t digits = rest.find_first_not_of("0123456789");
  if (digits == 0 || digits == std::string::npos || rest[digits] != 'x') return 0;
  const std::string number = rest.substr(0, digits);
  if (number[0] == '0') bad_cluster(whole, fmt::format("a count of {}", number));
  if (number.size() > 8 || std::stoll(number) > most_devices)
    bad_cluster(whole, fmt::format("more than {} devices", most_devices));
  rest.erase(0, digits + 1);
  return std::stoll(number);
}

Cluster cluster_by_text(const std::string& text) {
  std::string device = text;
  const std::int64_t first = take_count(text, device),
                     second = first ? take_count(text, device) : 0;
  if (device.empty()) bad_cluster(text, "no device is named");
  DeviceFile file = read_device_profile(device);
  Cluster c = file.cluster;
  c.name = text;
  if (second) {
    c.nodes = first;
    c.devices_per_node = second;
  } else if (first > c.devices_per_node && file.has_node) {
    if (first % c.devices_per_node != 0) {
      std::int64_t nodes = first / c.devices_per_node + 1;
      while (first % nodes != 0) ++nodes;
      throw Error(
          "E0205", Exit::usage,
          fmt::format("cluster '{}': {} devices do not fill whole nodes of {}", text, first,
                      c.devices_per_node),
          fmt::format("say how many each node has: {}x{}x{}", nodes, first / nodes, device));
    }
    c.nodes = first / c.devices_per_node;
  } else {
    c.devices_per_node = first ? first : 1;
  }
  if (c.nodes > most_devices / c.devices_per_node)
    bad_cluster(text, fmt::format("more than {} devices", most_devices));
  if (c.devices_per_node > 1 && c.intra.bandwidth.value <= 0)
    bad_cluster(text, "the device's file does not say how a node is wired");
  if (c.nodes > 1 && c.inter.bandwidth.value <= 0)
    bad_cluster(text, "the device's file does not say how nodes are wired");
  return c;
}

Cluster cluster_of(const Node& device) {
  return device.kind == Node::Kind::map ? read_device_file(device).cluster
                                        : read_device_profile(read_text(device, "device")).cluster;
}

// `parts: [{nodes: 8, device: a800-80g-sxm}, {nodes: 8, device: ascend-910b}]`: nodes of several types.
Cluster read_parts(const Node& list, bool sourced) {
  require(list, Node::Kind::list, "parts");
  if (list.items.empty()) fail(list, "E0106", "a cluster has no parts", "list nodes and device of each type");
  Cluster c;
  c.nodes = 0;
  for (const Node& item : list.items) {
    require(item, Node::Kind::map, "a part");
    only_keys(item, {"nodes", "device", "intra", "source"}, "a part");
    const Cluster one = cluster_of(required(item, "device", "a part"));
    Part part{read_integer(required(item, "nodes", "a part"), "nodes", 1, most_devices), one.device, one.intra};
    if (const Node* n = item.find("intra"))
      part.intra = read_link(*n, one.devices_per_node, sourced || (item.find("source") && !item.find("source")->text.empty()));
    if (part.device.cpu) fail(item, "E0107", "a cluster of several types holds CPUs", "mixed clusters are of accelerators");
    if (c.parts.empty()) c.device = part.device, c.intra = part.intra, c.inter = one.inter, c.devices_per_node = one.devices_per_node;
    if (one.devices_per_node > 1 && part.intra.bandwidth.value <= 0)
      fail(item, "E0106", "a part of several devices per node lacks 'intra'", "name a link, e.g. `intra: nvlink-4`");
    // Between the types the slower network carries what both send.
    if (one.inter.bandwidth < c.inter.bandwidth) c.inter = one.inter;
    c.nodes += part.nodes;
    c.parts.push_back(std::move(part));
  }
  if (c.parts.size() == 1) c.parts.clear();
  return c;
}

Cluster cluster_by_file(const std::string& file) {
  const Node root = parse_yaml(read_profile_file(file), file);
  require(root, Node::Kind::map, "a cluster");
  only_keys(root, {"name", "nodes", "devices_per_node", "device", "intra", "inter", "tiers", "parts", "source"},
            "a cluster");
  const bool sourced = root.find("source") && !root.find("source")->text.empty();
  const Node* parts = root.find("parts");
  if (parts && (root.find("device") || root.find("nodes") || root.find("intra")))
    fail(*parts, "E0107", "a cluster of parts has no device, nodes or intra of its own", "say them of each part");
  Cluster c = parts ? read_parts(*parts, sourced) : cluster_of(required(root, "device", "a cluster"));
  c.name = std::filesystem::path(file).stem().string();
  if (const Node* n = root.find("name")) c.name = read_text(*n, "name");
  if (const Node* n = root.find("nodes")) c.nodes = read_integer(*n, "nodes", 1, most_devices);
  if (const Node* n = root.find("devices_per_node"))
    c.devices_per_node = read_integer(*n, "devices_per_node", 1, 4096);
  if (c.nodes > most_devices / c.devices_per_node)
    fail(root, "E0109", fmt::format("the cluster has more than {} devices", most_devices),
         "check nodes and devices_per_node");
  // A file that names a link is taken at its word; one that writes it out vouches for the numbers
  // itself.
  if (const Node* n = root.find("intra")) c.intra = read_link(*n, c.devices_per_node, sourced);
  if (const Node* n = root.find("inter")) c.inter = read_link(*n, c.devices_per_node, sourced);
  if (const Node* n = root.find("tiers")) c.tiers = read_tiers(*n, c.devices_per_node, sourced);
  if (c.devices_per_node > 1 && c.intra.bandwidth.value <= 0)
    fail(root, "E0106", "a cluster of several devices per node lacks 'intra'",
         "name a link, e.g. `intra: nvlink-4`");
  if (c.nodes > 1 && c.inter.bandwidth.value <= 0)
    fail(root, "E0106", "a cluster of several nodes lacks 'inter'",
         "name a link, e.g. `inter: ib-ndr-400`");
  return c;
}

}  // namespace

Cluster read_cluster(const std::string& text) {
  if (text == "local") return local_cluster();
  if (text.empty()) bad_cluster(text, "it is empty");
  std::error_code ignored;
  if (text.ends_with(".yaml") || text.ends_with(".yml") ||
      std::filesystem::is_regular_file(text, ignored))
    return cluster_by_file(text);
  return cluster_by_text(text);
}

}  // namespace llmplan
