// Device profiles, links and clusters.
#include <doctest/doctest.h>
#include <sched.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <set>

#include "costmodel/error.h"
#include "costmodel/profiles/devices.h"
#include "costmodel/profiles/node.h"
#include "costmodel/profiles/profile_fields.h"
#include "costmodel/profiles/profiles.h"

using namespace llmplan;

namespace {

std::string code_of(const std::string& cluster) {
  try {
    read_cluster(cluster);
  } catch (const Error& e) {
    CHECK(!e.hint.empty());
    return e.code;
  }
  return "";
}

// A file that is gone at the end of the test.
struct TemporaryFile {
  std::string path;
  explicit TemporaryFile(const std::string& text, const char* name = "llmplan_hardware_test.yaml")
      : path((std::filesystem::temp_directory_path() / name).string()) {
    std::ofstream(path) << text;
  }
  ~TemporaryFile() { std::filesystem::remove(path); }
};

}  // namespace

TEST_CASE(
    "every shipped device has memory, rates, a reserve and a wired node, each within physical "
    "bounds") {
  const std::vector<std::string> names = device_names();
  CHECK(names.size() >= 24);
  for (const std::string& name : names) {
    CAPTURE(name);
    const Device d = read_device(name);
    CHECK(d.name == name);
    CHECK(!d.cpu);
    CHECK(d.memory > 10_GiB);
    CHECK(d.memory < 400_GiB);
    CHECK(d.reserve > Bytes{});
    CHECK(d.reserve < 4_GiB);
    CHECK(d.memory_bandwidth.value >= 3e11);  // the L4's, the narrowest card that is listed
    CHECK(d.memory_bandwidth.value < 2e13);
    CHECK((d.peak.contains(DType::fp16) || d.peak.contains(DType::bf16)));  // TPUs compute no fp16
    for (const auto& [type, peak] : d.peak) {
      CHECK(peak.value > 1e12);
      CHECK(peak.value < 1e16);
    }
    CHECK(d.vector_peak.value > 1e12);
    const Cluster c = read_cluster("2x4x" + name);
    CHECK(c.devices() == 8);
    CHECK(c.intra.bandwidth.value >= 5e9);
    CHECK(c.inter.bandwidth.value >= 5e8);
    CHECK(c.intra.latency.value > 0);
    CHECK(c.inter.latency.value >= c.intra.latency.value);
  }
}

TEST_CASE("the devices of published measurements and those that were asked for are there") {
  const auto names = device_names();
  const std::set<std::string> have(names.begin(), names.end());
  for (const char* name :
       {"a100-40g-pcie", "a100-40g-sxm", "a100-80g-pcie", "a100-80g-sxm", "a800-80g-sxm",
        "ascend-910b", "b200-180g", "gb200", "gb300", "h100-80g-sxm", "h100-96g-500w",
        "h200-141g-sxm", "mi300x", "v100-32g-sxm", "v100-16g-sxm", "h800-80g-sxm", "h20-96g-sxm",
        "iluvatar-bi-v150", "kunlun-r300", "mi325x", "mi250x", "mi355x", "gh200-96g", "ascend-910a", "iluvatar-bi-v100",
        "l40s-48g", "rtx-4090-24g", "rtx-pro-6000-96g", "b300-288g"}) {
    CAPTURE(name);
    CHECK(have.contains(name));
  }
  CHECK(!have.contains("links"));
  CHECK(!have.contains("local-cpu"));
}

TEST_CASE("a device is trained on in bf16, unless it computes fp16 only or is a CPU") {
  CHECK(usual_precision(read_device("h100-80g-sxm")) == DType::bf16);
  CHECK(usual_precision(read_device("v100-32g-sxm")) == DType::fp16);
  CHECK(usual_precision(read_device("t4-16g")) == DType::fp16);
  Device cpu;
  cpu.cpu = true;
  CHECK(usual_precision(cpu) == DType::fp32);
}

TEST_CASE("profiles hold what the datasheets say") {
  const Device h100 = read_device("h100-80g-sxm");
  CHECK(h100.peak.at(DType::bf16).value == 989e12);
  CHECK(h100.peak.at(DType::fp8_e4m3).value == 1979e12);
  CHECK(h100.memory_bandwidth.value == 3350e9);
  CHECK(read_device("a100-80g-sxm").peak.at(DType::fp16).value == 312e12);
  CHECK(!read_device("v100-16g-sxm").peak.contains(DType::bf16));  // Volta has none
  const Cluster c = read_cluster("16xh100-80g-sxm");
  CHECK(c.intra.bandwidth.value == 450e9);
  CHECK(c.inter.bandwidth.value == 400e9 / 8);
  CHECK(read_cluster("16xa100-80g-pcie").inter.bandwidth.value ==
        100e9 / 8 / 8);  // one port for 8 cards
}

TEST_CASE("cluster texts say nodes and devices") {
  Cluster c = read_cluster("8xh100-80g-sxm");
  CHECK(c.name == "8xh100-80g-sxm");
  CHECK(c.nodes == 1);
  CHECK(c.devices_per_node == 8);
  c = read_cluster("6x4xa100-80g-sxm");
  CHECK(c.nodes == 6);
  CHECK(c.devices_per_node == 4);
  c = read_cluster("16384xh100-80g-sxm");
  CHECK(c.nodes == 2048);
  CHECK(c.devices_per_node == 8);
  CHECK(c.devices() == 16384);
  c = read_cluster("h100-80g-sxm");
  CHECK(c.devices() == 1);
  CHECK(read_cluster("4xh100-80g-sxm").devices_per_node == 4);
  CHECK(read_cluster("32xv100-32g-sxm").nodes == 2);  // 16 to a node

  for (const char* bad :
       {"", "0xh100-80g-sxm", "08xh100-80g-sxm", "12xh100-80g-sxm",
        "99999999999999999999xh100-80g-sxm", "9999999x9999999xh100-80g-sxm", "8x"}) {
    CAPTURE(bad);
    CHECK(code_of(bad) == "E0205");
  }
  for (const char* bad : {"8xh100", "-8xh100-80g-sxm", "8 x h100-80g-sxm", "8xx", "nothing"}) {
    CAPTURE(bad);
    CHECK(code_of(bad) == "E0204");
  }
  CHECK(code_of("no/such/file.yaml") == "E0520");
  try {
    read_cluster("12xh100-80g-sxm");
  } catch (const Error& e) { CHECK(e.hint == "say how many each node has: 2x6xh100-80g-sxm"); }
  try {
    read_cluster("8xh100-80gb-sxm");
  } catch (const Error& e) { CHECK(e.hint.find("did you mean 'h100-80g-sxm'") == 0); }
}

TEST_CASE("a cluster file names devices and links or writes them out") {
  {
    const TemporaryFile f(
        "nodes: 4\ndevices_per_node: 8\ndevice: a100-80g-sxm\ninter: {link: roce-100, per_node: 4, "
        "source: our racks}\n");
    const Cluster c = read_cluster(f.path);
    CHECK(c.name == "llmplan_hardware_test");
    CHECK(c.devices() == 32);
    CHECK(c.inter.bandwidth.value == 100e9 / 8 / 2);
    CHECK(c.intra == read_cluster("8xa100-80g-sxm").intra);
  }
  {
    const TemporaryFile f(
        "name: mine\nnodes: 2\ndevices_per_node: 2\nsource: measured here\n"
        "device: {name: toy, source: made up, memory: 1 GiB, peak: {fp32: 1 TFLOP/s}, "
        "memory_bandwidth: 10 GB/s,\n"
        "         gemm_efficiency: [[1e6, 0.2], [1e9, 0.8]]}\n"
        "intra: {name: wire, bandwidth: 1 GB/s, latency: 10 us}\ninter: ethernet-25\n");
    const Cluster c = read_cluster(f.path);
    CHECK(c.name == "mine");
    CHECK(c.device.name == "toy");
    CHECK(c.device.memory == 1_GiB);
    CHECK(c.device.gemm_efficiency.points.size() == 2);
    CHECK(c.intra.latency.value == 1e-5);
    CHECK(c.inter.bandwidth.value == 25e9 / 8);
  }
}

TEST_CASE("what was fitted about a device overrides its datasheet number by number") {
  namespace fs = std::filesystem;
  const fs::path data = fs::temp_directory_path() / "llmplan_fitted_test";
  fs::remove_all(data);
  fs::create_directories(data / "models");
  fs::create_directories(data / "hardware_profiles/fitted");
  const auto write = [&](const char* name, const char* text) {
    std::ofstream(data / "hardware_profiles" / name) << text;
  };
  write("toy.yaml",
        "source: datasheet\nmemory: 1 GiB\nmemory_bandwidth: 10 GB/s\n"
        "node: {devices: 2, intra: wire, inter: wire}\n");
  write("links.yaml", "source: datasheet\nwire: {name: w, bandwidth: 4 GB/s, latency: 1 us}\n");
  write("fitted/toy.yaml", "source: fit\nmemory_efficiency: 0.8\nmemory_bandwidth: 9 GB/s\n");
  write("fitted/links.yaml", "wire: {source: fit, efficiency: [[1e3, 0.1], [1e6, 0.9]]}\n");
  const char* before = std::getenv("LLMPLAN_DATA");
  const std::string saved = before ? before : "";
  setenv("LLMPLAN_DATA", data.c_str(), 1);
  CHECK(device_names() == std::vector<std::string>{"toy"});
  const Cluster c = read_cluster("2x2xtoy");
  CHECK(c.device.memory == 1_GiB);
  CHECK(c.device.memory_bandwidth.value == 9e9);
  CHECK(c.device.memory_efficiency.at(1) == 0.8);
  CHECK(c.intra.bandwidth.value == 4e9);
  CHECK(c.intra.efficiency.at(1e6) == 0.9);
  write("fitted/toy.yaml", "memory_efficiency: 0.8\n");
  CHECK(code_of("toy") == "E0114");
  setenv("LLMPLAN_DATA", (data / "hardware_profiles").c_str(), 1);
  CHECK(code_of("toy") == "E0521");
  if (before)
    setenv("LLMPLAN_DATA", saved.c_str(), 1);
  else
    unsetenv("LLMPLAN_DATA");
  fs::remove_all(data);
}

TEST_CASE("the local machine has this machine's cores and memory, with and without a calibration") {
  const auto cache = std::filesystem::temp_directory_path() / "llmplan_local_test";
  std::filesystem::remove_all(cache);
  const char* before = std::getenv("XDG_CACHE_HOME");
  const std::string saved = before ? before : "";
  setenv("XDG_CACHE_HOME", cache.c_str(), 1);
  CHECK(calibration_path() == (cache / "llmplan/calibration.yaml").string());

  const Cluster plain = local_cluster();
  CHECK(plain.name == "local");
  CHECK(plain.nodes == 1);
  CHECK(plain.device.cpu);
  CHECK(plain.device.cores >= 1);
  CHECK(plain.devices_per_node == plain.device.cores);
  CHECK(plain.device.peak.empty());             // so MFU is n/a
  CHECK(plain.device.vector_peak.value > 1e9);  // but there is an estimate
  CHECK(plain.device.memory_bandwidth.value > 1e9);
  CHECK(plain.intra.bandwidth.value > 1e9);
  CHECK(plain.device.memory > 64_MiB);
  CHECK(read_cluster("local") == plain);
  // One core by affinity is one core, whatever the machine has.
  cpu_set_t all, one;
  REQUIRE(sched_getaffinity(0, sizeof all, &all) == 0);
  CHECK(plain.device.cores <= CPU_COUNT(&all));
  CPU_ZERO(&one);
  for (int i = 0; i < CPU_SETSIZE && CPU_COUNT(&one) == 0; ++i)
    if (CPU_ISSET(i, &all)) CPU_SET(i, &one);
  REQUIRE(sched_setaffinity(0, sizeof one, &one) == 0);
  CHECK(local_cluster().device.cores == 1);
  REQUIRE(sched_setaffinity(0, sizeof all, &all) == 0);

  Device calibrated = plain.device;
  calibrated.peak[DType::fp32] = {1.25e11};
  calibrated.cores = 4711;  // of another machine: what is here counts
  calibrated.measured = {
      {Gemm{64, 32, 16, false, true, false, DType::fp32, DType::fp32}, 1, 2, {1.5e-6}}};
  std::filesystem::create_directories(cache / "llmplan");
  std::ofstream(calibration_path()) << calibration_to_yaml(calibrated);
  const Cluster after = local_cluster();
  CHECK(after.device.peak.at(DType::fp32).value == 1.25e11);
  CHECK(after.device.measured == calibrated.measured);
  CHECK(after.device.cores == plain.device.cores);
  CHECK(after.device.memory == plain.device.memory);

  std::filesystem::remove_all(cache);
  if (before)
    setenv("XDG_CACHE_HOME", saved.c_str(), 1);
  else
    unsetenv("XDG_CACHE_HOME");
}

namespace {

template <std::size_t I = 0>
void one_of_each(std::vector<MeasuredOp>& out) {
  if constexpr (I < std::variant_size_v<Op>) {
    out.push_back(
        {std::variant_alternative_t<I, Op>{}, static_cast<int>(I) + 1, 2, {1e-6 / 3 * (I + 1)}});
    one_of_each<I + 1>(out);
  }
}

}  // namespace

TEST_CASE(
    "a calibration reads back as the device that was written, bit by bit, for every kind of op") {
  Device d = read_device("h100-80g-sxm");
  d.name = "odd \"name\" \\ here";
  d.cpu = true;
  d.cores = 7;
  d.launch = {1.0 / 3e5};
  d.price_per_hour = 2.1;
  d.gemm_efficiency = {{{1e6, 0.1}, {3.3e9, 0.7 / 0.9}}};
  d.attention_efficiency = {{{1, 0.5}}};
  d.memory_efficiency = {{{1024, 0.3}, {1e9, 0.9}}};
  d.contention = {{OpClass::matrix, OpClass::collective, 1 + 1.0 / 7}, {OpClass::transfer, OpClass::pointwise, 1}};
  one_of_each(d.measured);
  for (int k = 0; k <= static_cast<int>(Collective::Kind::all_to_all); ++k)
    d.measured.push_back(
        {Collective{static_cast<Collective::Kind>(k), Axis::world, {12345}, DType::bf16},
         4,
         1,
         {2e-5}});
  d.measured.push_back({RmsNorm{3, 5, true, 1e-5 / 3, DType::fp64}, 1, 1, {1.0 / 7}});
  const std::string text = calibration_to_yaml(d);
  const Device back = read_device_file(parse_yaml(text, "calibration.yaml")).cluster.device;
  CHECK(back == d);
  CHECK(calibration_to_yaml(back) == text);
}

TEST_CASE("a pair of ops that speed each other up, is stated twice, or is of no known class is refused") {
  const auto code = [](const std::string& pairs) -> std::string {
    try {
      read_device_file(parse_yaml("source: here\ncontention:\n" + pairs, "d.yaml"));
    } catch (const Error& e) { return e.code; }
    return "";
  };
  CHECK(code("  - {work: matrix, beside: collective, slowdown: 1.2}\n") == "");
  CHECK(code("  - {work: matrix, beside: collective, slowdown: 0.9}\n") == "E0109");
  CHECK(code("  - {work: matrix, beside: collective, slowdown: 1}\n  - {work: matrix, beside: collective, slowdown: 2}\n") == "E0109");
  CHECK(code("  - {work: gemm, beside: collective, slowdown: 1}\n") == "E0112");
  CHECK(code("  - {work: matrix, slowdown: 1}\n") != "");
}

TEST_CASE("a number without a source is refused wherever it stands") {
  const auto code = [](const std::string& text) -> std::string {
    try {
      read_device_file(parse_yaml(text, "d.yaml"));
    } catch (const Error& e) { return e.code; }
    return "";
  };
  CHECK(code("memory: 80 GiB\n") == "E0114");
  CHECK(code("memory: {value: 80 GiB}\n") == "E0114");
  CHECK(code("memory: {value: 80 GiB, source: ''}\n") == "E0114");
  CHECK(code("memory: {value: 80 GiB, source: a datasheet}\n") == "");
  CHECK(code("source: a datasheet\nmemory: 80 GiB\n") == "");
  CHECK(code("peak: {bf16: 1 TFLOP/s}\n") == "E0114");
  CHECK(code("peak: {source: a datasheet, bf16: 1 TFLOP/s}\n") == "");
  CHECK(code("gemm_efficiency: 0.5\n") == "E0114");
  CHECK(code("gemm_efficiency: {points: [[1, 0.5]]}\n") == "E0114");
  CHECK(code("gemm_efficiency: {points: [[1, 0.5]], source: fitted}\n") == "");
  CHECK(code("launch: 3 us\n") == "E0114");
  CHECK(code("node: {devices: 8, intra: {bandwidth: 1 GB/s}}\n") == "E0114");
  CHECK(code("node: {devices: 8, source: a datasheet, intra: {bandwidth: 1 GB/s}}\n") == "");
}
