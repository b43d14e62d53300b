#include "costmodel/profiles/local_gpus.h"

#include <algorithm>
#include <filesystem>

#include "costmodel/profiles/devices.h"
#include "costmodel/profiles/profiles.h"
#include "costmodel/profiles/quantity.h"

namespace llmplan {
namespace {

std::vector<LocalGpu> (*finder)() = nullptr;

// A device that no profile describes: what the driver says, and no peak, so that MFU is n/a.
Device unknown_device(const LocalGpu& gpu) {
  Device d;
  d.vector_peak = gpu.vector_peak;
  d.memory_bandwidth = gpu.memory_bandwidth;
  d.sms = gpu.sms;
  d.reserve = {std::int64_t{1} << 30};
  d.name = gpu.name;
  std::replace(d.name.begin(), d.name.end(), ' ', '-');
  return d;
}

}  // namespace

void find_local_gpus_with(std::vector<LocalGpu> (*f)()) { finder = f; }

std::string profile_of_driver_name(const std::string& name) {
  const std::string file = (std::filesystem::path(data_directory()) / "hardware_profiles/driver_names.yaml").string();
  const Node names = parse_yaml(read_profile_file(file), file);
  require(names, Node::Kind::map, "driver_names");
  const Node* profile = names.find(name);
  return profile ? read_text(*profile, name) : "";
}

std::optional<Cluster> local_gpu_cluster() {
  const std::vector<LocalGpu> all = finder ? finder() : std::vector<LocalGpu>{};
  if (all.empty()) return {};
  const LocalGpu& gpu = all.front();
  const std::string profile = profile_of_driver_name(gpu.name);
  Cluster c;
  if (!profile.empty()) c = read_device_profile(profile).cluster;
  else c.device = unknown_device(gpu);
  if (gpu.memory.value > 0) c.device.memory = gpu.memory;
  const std::string file = calibration_path();
  if (std::error_code ignored; std::filesystem::is_regular_file(file, ignored)) {
    const Device calibrated = read_device_file(parse_yaml(read_profile_file(file), file)).cluster.device;
    if (!calibrated.cpu && calibrated.name == c.device.name) c.device = calibrated;
  }
  c.name = "local";
  c.nodes = 1;
  c.devices_per_node = std::count_if(all.begin(), all.end(), [&](const LocalGpu& g) { return g.name == gpu.name; });
  return c;
}

}  // namespace llmplan
