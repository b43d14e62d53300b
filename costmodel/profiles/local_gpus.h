// The GPUs of the machine at hand, as a cluster. What the driver says comes from above (find_local_gpus_with), since
// reading profiles needs no driver.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "costmodel/cluster.h"

namespace llmplan {

struct LocalGpu {
  std::string name;                 // as the driver calls it: "NVIDIA H200"
  Bytes memory{};
  int sms = 0;
  FlopsPerSecond vector_peak{};     // fp32, from clock and processors
  BytesPerSecond memory_bandwidth{};  // from clock and bus width; 0: the driver does not say
};

// Who knows them; until somebody does, there are none.
void find_local_gpus_with(std::vector<LocalGpu> (*)());

// One node of the GPUs that are like the first: its profile (hardware_profiles/driver_names.yaml), else what the driver
// says, and what was calibrated on it. Nothing where there is no GPU.
std::optional<Cluster> local_gpu_cluster();

// The profile for a driver's name; empty if none is known.
std::string profile_of_driver_name(const std::string& name);

}  // namespace llmplan
