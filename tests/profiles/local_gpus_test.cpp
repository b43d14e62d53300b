#include "costmodel/profiles/local_gpus.h"

#include <doctest/doctest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "costmodel/profiles/devices.h"
#include "costmodel/profiles/profiles.h"

using namespace llmplan;

namespace {

std::vector<LocalGpu> found;
struct Machine {  // with these GPUs, and no calibration
  explicit Machine(std::vector<LocalGpu> gpus) {
    setenv("XDG_CACHE_HOME", folder.c_str(), 1);
    found = std::move(gpus);
    find_local_gpus_with([] { return found; });
  }
  ~Machine() {
    find_local_gpus_with(nullptr);
    unsetenv("XDG_CACHE_HOME");
    std::filesystem::remove_all(folder);
  }
  std::filesystem::path folder = std::filesystem::temp_directory_path() / "llmplan-local-gpus-test";
};

LocalGpu gpu(const std::string& name) { return {name, Bytes{150'000'000'000}, 132, {60e12}, {4.8e12}}; }

}  // namespace

TEST_CASE("The local cluster is the machine's GPUs where it has some, described by the profile of the driver's name") {
  Machine machine({gpu("NVIDIA H200"), gpu("NVIDIA H200"), gpu("NVIDIA L4")});
  const Cluster c = read_cluster("local");
  CHECK(c.name == "local");
  CHECK(!c.device.cpu);
  CHECK(c.device.name == "h200-141g-sxm");
  CHECK(c.device.peak == read_device("h200-141g-sxm").peak);
  CHECK(c.device.memory.value == 150'000'000'000);  // what the driver shows, not the profile
  CHECK(c.devices_per_node == 2);                   // one kind only
  CHECK(c.intra.bandwidth.value > 0);
}

TEST_CASE("A GPU without a profile is what the driver says, without a peak") {
  Machine machine({gpu("NVIDIA Q1 Turbo")});
  const Cluster c = read_cluster("local");
  CHECK(c.device.name == "NVIDIA-Q1-Turbo");
  CHECK(c.device.peak.empty());
  CHECK(c.device.vector_peak.value == 60e12);
  CHECK(c.device.memory_bandwidth.value == 4.8e12);
  CHECK(c.device.sms == 132);
}

TEST_CASE("A calibration is used by the device that it was made on, and by no other") {
  Machine machine({gpu("NVIDIA H200")});
  Device d = read_cluster("local").device;
  d.measured = {{Add{1024, DType::bf16}, 1, 1, {1e-6}}};
  std::filesystem::create_directories(std::filesystem::path(calibration_path()).parent_path());
  std::ofstream(calibration_path()) << calibration_to_yaml(d);
  CHECK(read_cluster("local").device.measured == d.measured);
  found = {gpu("NVIDIA L40S")};
  CHECK(read_cluster("local").device.measured.empty());
  found.clear();  // a GPU's calibration does not describe the cores
  CHECK(read_cluster("local").device.cpu);
  CHECK(read_cluster("local").device.measured.empty());
}

TEST_CASE("Every driver name leads to a profile that is there") {
  const std::string file = data_directory() + "/hardware_profiles/driver_names.yaml";
  std::ifstream in(file);
  int names = 0;
  for (std::string line; std::getline(in, line);) {
    if (line.empty() || line[0] == '#') continue;
    const std::string name = line.substr(0, line.find(':'));
    CAPTURE(name);
    CHECK(read_device(profile_of_driver_name(name)).memory.value > 0);
    ++names;
  }
  CHECK(names > 10);
  CHECK(profile_of_driver_name("NVIDIA Q1 Turbo").empty());
}
