#include "executor/nvml.h"

#include <dlfcn.h>
#include <unistd.h>

namespace llmplan {
namespace {

template <class F>
void find(void* library, const char* name, F*& function) {
  function = reinterpret_cast<F*>(dlsym(library, name));
}

const Nvml* loaded() {
  static const Nvml* const nvml = []() -> const Nvml* {
    void* library = dlopen("libnvidia-ml.so.1", RTLD_NOW | RTLD_LOCAL);
    if (!library) return nullptr;
    static Nvml f;
    find(library, "nvmlInit_v2", f.init);
    find(library, "nvmlDeviceGetHandleByPciBusId_v2", f.by_bus);
    find(library, "nvmlDeviceGetMemoryInfo", f.memory);
    find(library, "nvmlDeviceGetComputeRunningProcesses_v3", f.processes);
    return f.init && f.by_bus && f.memory ? &f : nullptr;
  }();
  return nvml;
}

}  // namespace

std::optional<GpuMemory> gpu_memory(const std::string& bus) {
  const Nvml* nvml = loaded();
  return nvml ? gpu_memory(*nvml, bus, getpid()) : std::nullopt;
}

Bytes gpu_memory(const std::set<std::string>& buses) {
  Bytes sum{};
  for (const std::string& bus : buses)
    if (const auto m = gpu_memory(bus)) sum += m->own.value > 0 ? m->own : m->used;
  return sum;
}

std::optional<GpuMemory> gpu_memory(const Nvml& nvml, const std::string& bus, int pid) {
  void* device = nullptr;
  Nvml::Memory memory{};
  if (nvml.init() != 0 || nvml.by_bus(bus.c_str(), &device) != 0 || nvml.memory(device, &memory) != 0) return {};
  GpuMemory out{{static_cast<std::int64_t>(memory.total)}, {static_cast<std::int64_t>(memory.used)}, {}};
  if (!nvml.processes) return out;
  std::vector<Nvml::Process> list(256);
  auto count = static_cast<unsigned>(list.size());
  if (nvml.processes(device, &count, list.data()) != 0) return out;
  for (unsigned i = 0; i < count && i < list.size(); ++i)
    // All ones: the driver does not know, as on Windows' display driver model.
    if (static_cast<int>(list[i].pid) == pid && list[i].used != ~0ull) out.own += Bytes{static_cast<std::int64_t>(list[i].used)};
  return out;
}

}  // namespace llmplan
