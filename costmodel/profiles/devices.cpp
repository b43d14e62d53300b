// hardware_profiles/*.yaml: a device, and the node that it usually sits in.
#include "costmodel/profiles/devices.h"

#include <algorithm>
#include <filesystem>

#include <fmt/format.h>

#include "costmodel/profiles/calibration.h"
#include "costmodel/profiles/files.h"
#include "costmodel/profiles/profile_fields.h"
#include "costmodel/profiles/profiles.h"
#include "costmodel/profiles/quantity.h"

namespace llmplan {

namespace fs = std::filesystem;

namespace {

std::string in_profiles(const std::string& name) {
  return (fs::path(data_directory()) / "hardware_profiles" / (name + ".yaml")).string();
}

bool has_source(const Node& n) { return n.find("source") && !n.find("source")->text.empty(); }

// hardware_profiles/fitted/NAME.yaml holds what was measured or fitted about a device that
// hardware_profiles/NAME.yaml describes by its datasheet; where both state a number, it wins.
Device with_fitted(const std::string& name, Device device) {
  const std::string file = in_profiles("fitted/" + name);
  std::error_code ignored;
  if (!fs::is_regular_file(file, ignored)) return device;
  return read_device_fields(parse_yaml(read_profile_file(file), file), {}, false,
                            std::move(device));
}
Link with_fitted_link(const std::string& name, Link link) {
  const std::string file = in_profiles("fitted/links");
  std::error_code ignored;
  if (!fs::is_regular_file(file, ignored)) return link;
  const Node links = parse_yaml(read_profile_file(file), file);
  require(links, Node::Kind::map, "links");
  const Node* n = links.find(name);
  return n ? read_link_fields(*n, {}, has_source(links), std::move(link)) : link;
}

}  // namespace

std::vector<std::string> device_names() {
  std::vector<std::string> names = yaml_names("hardware_profiles");
  std::erase(names, "links");
  std::erase(names, "local-cpu");
  std::erase(names, "driver_names");
  return names;
}

Link read_link(const Node& n, std::int64_t devices_per_node, bool sourced) {
  if (n.kind == Node::Kind::map && !n.find("link")) { return read_link_fields(n, {}, sourced); }
  std::int64_t ports = 0;
  const Node* by_name = &n;
  if (n.kind == Node::Kind::map) {
    only_keys(n, {"link", "per_node", "source"}, "a link");
    by_name = n.find("link");
    if (const Node* nics = n.find("per_node")) {
      if (!sourced && !has_source(n))
        fail(*nics, "E0114", "per_node has no source", "add a `source:` beside it");
      ports = read_integer(*nics, "per_node", 1, 1024);
    }
  }
  const std::string name = read_text(*by_name, "link");
  const std::string file = in_profiles("links");
  const Node links = parse_yaml(read_profile_file(file), file);
  require(links, Node::Kind::map, "links");
  std::vector<std::string> names;
  for (const auto& [key, value] : links.entries) {
    if (key.text == "source") continue;
    names.push_back(key.text);
    if (key.text != name) continue;
    Link link = with_fitted_link(name, read_link_fields(value, {}, has_source(links)));
    set_ports(link, ports, devices_per_node);
    return link;
  }
  fail(*by_name, "E0204", fmt::format("unknown link '{}'", name),
       did_you_mean(name, names, fmt::format("known: {}", fmt::join(names, ", "))));
}

std::vector<Tier> read_tiers(const Node& n, std::int64_t devices_per_node, bool sourced) {
  require(n, Node::Kind::list, "tiers");
  if (n.items.size() + 2 > kMaxTiers)
    fail(n, "E0109", fmt::format("{} tiers beside the node and the cluster", n.items.size()),
         fmt::format("at most {}", kMaxTiers - 2));
  std::vector<Tier> tiers;
  for (const Node& item : n.items) {
    require(item, Node::Kind::map, "a tier");
    only_keys(item, {"devices", "link", "source"}, "a tier");
    const Node& devices = required(item, "devices", "a tier");
    Tier tier;
    tier.devices = read_integer(devices, "devices", 2, 10'000'000);
    if (tier.devices == devices_per_node || (!tiers.empty() && tier.devices <= tiers.back().devices))
      fail(devices, "E0109", fmt::format("a tier of {} devices", tier.devices),
           fmt::format("list tiers by devices, ascending; the node's {} are `intra`", devices_per_node));
    tier.link = read_link(required(item, "link", "a tier"), devices_per_node, sourced || has_source(item));
    tiers.push_back(std::move(tier));
  }
  return tiers;
}

DeviceFile read_device_file(const Node& root) {
  DeviceFile out;
  out.cluster.device = read_device_fields(root, {"title", "node", "measured", "contention"}, false);
  Cluster& c = out.cluster;
  if (const Node* m = root.find("measured"); m && m->kind != Node::Kind::null)
    c.device.measured = read_measured(*m);
  if (const Node* pairs = root.find("contention"); pairs && pairs->kind != Node::Kind::null)
    c.device.contention = read_contention(*pairs);
  if (const Node* node = root.find("node"); node && node->kind != Node::Kind::null) {
    require(*node, Node::Kind::map, "node");
    only_keys(*node, {"devices", "intra", "inter", "tiers", "source"}, "node");
    const bool sourced = has_source(root) || has_source(*node);
    c.devices_per_node = read_integer(required(*node, "devices", "node"), "devices", 1, 4096);
    if (const Node* l = node->find("intra")) c.intra = read_link(*l, c.devices_per_node, sourced);
    if (const Node* l = node->find("inter")) c.inter = read_link(*l, c.devices_per_node, sourced);
    if (const Node* t = node->find("tiers")) c.tiers = read_tiers(*t, c.devices_per_node, sourced);
    out.has_node = true;
  }
  return out;
}

DeviceFile read_device_profile(const std::string& name) {
  const std::vector<std::string> names = device_names();
  std::string file;
  std::error_code ignored;
  if (std::find(names.begin(), names.end(), name) != names.end())
    file = in_profiles(name);
  else if (looks_like_path(name) || fs::exists(name, ignored))
    file = name;
  if (file.empty()) {
    const std::string more =
        fmt::format("{} built-in devices: llmplan hardware · or give a YAML file", names.size());
    const std::string guess = did_you_mean(name, names, "");
    throw Error("E0204", Exit::usage, fmt::format("unknown device '{}'", name.substr(0, 80)),
                guess.empty() ? more : guess + " · " + more);
  }
  DeviceFile out = read_device_file(parse_yaml(read_profile_file(file), file));
  Device& device = out.cluster.device;
  if (file == in_profiles(name)) device = with_fitted(name, std::move(device));
  if (device.name.empty()) device.name = fs::path(file).stem().string();
  return out;
}

Device read_device(const std::string& name) { return read_device_profile(name).cluster.device; }

}  // namespace llmplan
