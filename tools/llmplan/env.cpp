// llmplan env: what this machine offers and what the launcher said.
#include <dlfcn.h>
#include <sched.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <cstdlib>
#include <fstream>
#include <iostream>

#include <fmt/format.h>

#include "costmodel/profiles/local_gpus.h"
#include "costmodel/profiles/profiles.h"
#include "executor/cpu/kernels.h"
#include "executor/gpu.h"
#include "executor/launch.h"
#include "executor/mpi.h"
#include "executor/rank_setup.h"
#include "tools/llmplan/commands.h"
#include "tools/llmplan/documents.h"
#include "tools/llmplan/format.h"

namespace llmplan::cli {
namespace {

// The value after "key : " in a /proc file; empty if there is none.
std::string proc_value(const char* file, const std::string& key) {
  std::ifstream in(file);
  for (std::string line; std::getline(in, line);) {
    if (!line.starts_with(key)) continue;
    const std::size_t colon = line.find(':');
    if (colon == std::string::npos) continue;
    const std::size_t first = line.find_first_not_of(" \t", colon + 1);
    return first == std::string::npos ? "" : line.substr(first);
  }
  return "";
}

int usable_cores() {
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(0, sizeof set, &set) == 0) return CPU_COUNT(&set);
  return static_cast<int>(sysconf(_SC_NPROCESSORS_ONLN));
}

std::int64_t memory_kib(const char* key) {
  const std::string text = proc_value("/proc/meminfo", key);
  return text.empty() ? 0 : std::strtoll(text.c_str(), nullptr, 10);
}

struct Library { const char* purpose; const char* file; };
constexpr Library kLibraries[] = {{"CUDA driver", "libcuda.so.1"},  {"NVML", "libnvidia-ml.so.1"},
                                  {"CUDA runtime", "libcudart.so"}, {"NCCL", "libnccl.so.2"},
                                  {"cuDNN", "libcudnn.so.9"},       {"MPI", "libmpi.so.40"}};

bool can_load(const char* file) {
  void* handle = dlopen(file, RTLD_LAZY | RTLD_LOCAL);
  if (handle != nullptr) dlclose(handle);
  return handle != nullptr;
}

const char* variable(const char* name) { return std::getenv(name); }

Json launch_json() {
  Json found = Json::array();
  for (const Launch& l : launches(variable)) {
    found.push_back({{"launcher", l.launcher}, {"rank", l.rank}, {"world", l.size}, {"local_rank", l.local_rank}, {"from", l.from},
                     {"started_by_it", l.active}, {"meet_by", l.mpi ? "MPI" : "TCP"}});
    if (!l.master.empty()) found.back()["master"] = fmt::format("{}:{}", l.master, l.port);
  }
  return found;
}

// The backend that this build has, not only a library that happens to lie on the machine.
Json mpi_json() {
  const MpiLibrary& m = mpi_library();
  return {{"usable", m.api != nullptr}, {"version", m.api ? Json(m.api->library()) : Json(nullptr)}, {"reason", m.api ? Json(nullptr) : Json(m.why_not)}};
}

// The GPUs that runs can use, with the profile that `--cluster local` takes for them.
Json gpus_json(const GpuSummary& summary) {
  Json all = Json::array();
  for (const GpuInfo& g : summary.gpus) {
    const std::string profile = profile_of_driver_name(g.name);
    Json peak = nullptr;
    if (!profile.empty())
      if (const Device d = read_device(profile); d.peak.contains(DType::bf16)) peak = d.peak.at(DType::bf16).value;
    all.push_back({{"name", g.name},
                   {"memory", g.memory.value},
                   {"free", g.free.value},
                   {"processors", g.multiprocessors},
                   {"compute_capability", fmt::format("{}.{}", g.major, g.minor)},
                   {"profile", profile.empty() ? Json(nullptr) : Json(profile)},
                   {"peak_bf16", peak}});
  }
  return all;
}

Json environment() {
  utsname system{};
  uname(&system);
  Json libraries = Json::object();
  for (const Library& l : kLibraries) libraries[l.purpose] = {{"library", l.file}, {"found", can_load(l.file)}};
  const GpuSummary gpu = gpu_summary();
  const char* visible = std::getenv("CUDA_VISIBLE_DEVICES");
  return {{"schema", "llmplan.env/1"},
          {"version", LLMPLAN_VERSION},
          {"system", fmt::format("{} {} {}", system.sysname, system.release, system.machine)},
          {"cpu", cpu_name()},
          {"cores", usable_cores()},
          {"instruction_set", std::string(cpu::instruction_set())},
          {"memory", memory_kib("MemTotal") * 1024},
          {"memory_available", memory_kib("MemAvailable") * 1024},
          {"libraries", libraries},
          {"gpu_backend", gpu.versions.empty() ? Json(nullptr) : Json(gpu.versions)},
          {"gpus", gpus_json(gpu)},
          {"why_no_gpu", gpu.why_none.empty() ? Json(nullptr) : Json(gpu.why_none)},
          {"cuda_visible_devices", visible == nullptr ? Json(nullptr) : Json(visible)},
          {"mpi", mpi_json()},
          {"launch", launch_json()},
          {"data_directory", data_directory()},
          {"calibration", calibration_path()},
          {"calibrated", access(calibration_path().c_str(), R_OK) == 0}};
}

void print_text(const Json& e) {
  const auto line = [](const std::string& name, const std::string& value) {
    std::cout << fmt::format(" {:<14} {}\n", name, value);
  };
  line("llmplan", e["version"].get<std::string>());
  line("system", e["system"].get<std::string>());
  line("cpu", fmt::format("{}, {} cores usable, kernels for {}", e["cpu"].get<std::string>(), e["cores"].get<int>(),
                          e["instruction_set"].get<std::string>()));
  line("memory", fmt::format("{}, {} available", bytes_text({e["memory"].get<std::int64_t>()}),
                             bytes_text({e["memory_available"].get<std::int64_t>()})));
  for (const auto& [purpose, library] : e["libraries"].items())
    line(purpose, fmt::format("{} ({})", library["found"].get<bool>() ? "found" : "not found",
                              library["library"].get<std::string>()));
  line("GPU backend", e["gpu_backend"].is_null() ? "none" : e["gpu_backend"].get<std::string>());
  for (const Json& g : e["gpus"])
    line("GPU", fmt::format("{}, {} ({} free), compute capability {}, {}", g["name"].get<std::string>(),
                            bytes_text({g["memory"].get<std::int64_t>()}), bytes_text({g["free"].get<std::int64_t>()}),
                            g["compute_capability"].get<std::string>(),
                            g["profile"].is_null() ? "no profile: calibrate it" : "profile " + g["profile"].get<std::string>()));
  if (e["gpus"].empty()) line("GPU", "none that runs can use: " + e["why_no_gpu"].get<std::string>());
  else if (e["gpus"].size() == 1) line("ranks", "several share the GPU (NCCL needs one for each)");
  if (!e["cuda_visible_devices"].is_null())
    line("visible GPUs", "CUDA_VISIBLE_DEVICES=" + e["cuda_visible_devices"].get<std::string>());
  line("MPI backend", e["mpi"]["usable"].get<bool>() ? e["mpi"]["version"].get<std::string>()
                                                     : "not usable: " + e["mpi"]["reason"].get<std::string>());
  if (e["launch"].empty()) line("launch", "started by hand, one process");
  for (const Json& l : e["launch"])
    line("launch", fmt::format("{}: rank {} of {} (from {}){}", l["launcher"].get<std::string>(),
                               l["rank"].get<int>(), l["world"].get<int>(), l["from"].get<std::string>(),
                               l["started_by_it"].get<bool>() ? "" : ", but not started by srun"));
  line("profiles", e["data_directory"].get<std::string>());
  line("calibration", e["calibration"].get<std::string>() +
                          (e["calibrated"].get<bool>() ? "" : "   (not there yet: llmplan calibrate)"));
}

}  // namespace

void add_env(CLI::App& app, Session& session) {
  CLI::App* sub = app.add_subcommand("env", "what this machine offers: cores, memory, libraries, launcher");
  sub->callback([&session] {
    session.action = [&session] {
      find_launch(variable);  // refuses launchers that disagree
      const Json e = environment();
      if (session.json) print_document(e);
      else print_text(e);
      return Exit::ok;
    };
  });
}

}  // namespace llmplan::cli
