// The machine we are on: its cores, memory and, where somebody calibrated, its measured ops.
#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <sstream>

#include <fmt/format.h>

#include "costmodel/profiles/devices.h"
#include "costmodel/profiles/local_gpus.h"
#include "costmodel/profiles/profile_fields.h"
#include "costmodel/profiles/profiles.h"
#include "costmodel/profiles/quantity.h"

namespace llmplan {
namespace {

namespace fs = std::filesystem;

std::string first_line(const std::string& path) {
  std::ifstream in(path);
  std::string line;
  std::getline(in, line);
  return line;
}

// Visits this process's cgroup folders, from its own up to the root: v2 first, then the v1
// controller.
template <class Visit>
void visit_cgroups(const std::string& controller, Visit visit) {
  std::ifstream in("/proc/self/cgroup");
  for (std::string line; std::getline(in, line);) {
    const std::size_t a = line.find(':'), b = line.find(':', a + 1);
    if (a == std::string::npos || b == std::string::npos) continue;
    const std::string controllers = "," + line.substr(a + 1, b - a - 1) + ",";
    const bool v2 = controllers == ",,";
    if (!v2 && controllers.find("," + controller + ",") == std::string::npos) continue;
    const fs::path root = v2 ? "/sys/fs/cgroup" : "/sys/fs/cgroup/" + controller;
    for (fs::path own = fs::path(line.substr(b + 1)).relative_path();; own = own.parent_path()) {
      visit((root / own).string(), v2);
      if (own.empty()) break;
    }
  }
}

std::int64_t cpu_limit(std::int64_t cores) {
  visit_cgroups("cpu", [&](const std::string& folder, bool v2) {
    double quota = -1, period = 0;
    if (v2) {
      std::istringstream in(first_line(folder + "/cpu.max"));
      std::string text;
      if (!(in >> text >> period) || text == "max") return;
      quota = std::strtod(text.c_str(), nullptr);
    } else {
      quota = std::strtod(first_line(folder + "/cpu.cfs_quota_us").c_str(), nullptr);
      period = std::strtod(first_line(folder + "/cpu.cfs_period_us").c_str(), nullptr);
    }
    if (quota > 0 && period > 0)
      cores = std::min(cores, std::max<std::int64_t>(1, static_cast<std::int64_t>(quota / period)));
  });
  return cores;
}

std::int64_t usable_cores() {
  cpu_set_t set;
  CPU_ZERO(&set);
  std::int64_t cores =
      sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : sysconf(_SC_NPROCESSORS_ONLN);
  return cpu_limit(std::max<std::int64_t>(1, cores));
}

Bytes usable_memory() {
  std::int64_t bytes = 0;
  std::ifstream in("/proc/meminfo");
  for (std::string line; std::getline(in, line);)
    if (line.starts_with("MemTotal:")) bytes = std::strtoll(line.c_str() + 9, nullptr, 10) * 1024;
  if (bytes <= 0)
    bytes = static_cast<std::int64_t>(sysconf(_SC_PHYS_PAGES)) * sysconf(_SC_PAGESIZE);
  visit_cgroups("memory", [&](const std::string& folder, bool v2) {
    const std::string text = first_line(folder + (v2 ? "/memory.max" : "/memory.limit_in_bytes"));
    const std::int64_t limit = std::strtoll(text.c_str(), nullptr, 10);  // "max" reads as 0
    if (limit > 0) bytes = std::min(bytes, limit);
  });
  return {bytes};
}

// The instruction sets that local-cpu.yaml tells apart, best first.
std::vector<std::string> instruction_sets() {
  std::vector<std::string> out;
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl"))
    out.push_back("avx512");
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) out.push_back("avx2");
#elif defined(__aarch64__)
  out.push_back("neon");
#endif
  out.push_back("generic");
  return out;
}

// hardware_profiles/local-cpu.yaml: one device per instruction set, and the link between ranks.
Cluster defaults() {
  const std::string file =
      (fs::path(data_directory()) / "hardware_profiles/local-cpu.yaml").string();
  const Node root = parse_yaml(read_profile_file(file), file);
  require(root, Node::Kind::map, "local-cpu");
  Cluster c;
  for (const std::string& isa : instruction_sets()) {
    const Node* n = root.find(isa);
    if (!n) continue;
    c.device = read_device_fields(*n, {}, false);
    c.device.name = "local-cpu-" + isa;
    break;
  }
  c.intra = read_link(required(root, "intra", "local-cpu"), 1, false);
  return c;
}

}  // namespace

Cluster local_cluster() {
  if (auto gpus = local_gpu_cluster()) return *gpus;
  Cluster c = defaults();
  std::error_code ignored;
  if (const std::string file = calibration_path(); fs::is_regular_file(file, ignored))
    if (const Device d = read_device_file(parse_yaml(read_profile_file(file), file)).cluster.device; d.cpu) c.device = d;
  c.name = "local";
  c.device.cpu = true;
  c.device.cores = static_cast<int>(usable_cores());
  c.device.memory = usable_memory();
  c.nodes = 1;
  c.devices_per_node = c.device.cores;
  return c;
}

}  // namespace llmplan
