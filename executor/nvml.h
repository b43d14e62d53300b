// What the driver's management library says of a GPU's memory. It is loaded at run time; nothing depends on it.
#pragma once

#include <optional>
#include <set>
#include <string>
#include <vector>

#include "costmodel/units.h"

namespace llmplan {

struct GpuMemory {
  Bytes total{}, used{};  // of the card, by everybody
  Bytes own{};            // by this process; 0: the driver does not tell (containers, some drivers)
};

// The library's functions that are used, and their structs as nvml.h has them since CUDA 11.
struct Nvml {
  struct Memory { unsigned long long total, free, used; };
  struct Process { unsigned pid; unsigned long long used; unsigned gpu_instance, compute_instance; };
  int (*init)() = nullptr;
  int (*by_bus)(const char* bus, void** device) = nullptr;
  int (*memory)(void* device, Memory*) = nullptr;
  int (*processes)(void* device, unsigned* count, Process*) = nullptr;  // may be null: an old driver
};

// Of the GPU with this PCI address; nothing if the library is not here or refuses.
std::optional<GpuMemory> gpu_memory(const std::string& bus);
std::optional<GpuMemory> gpu_memory(const Nvml&, const std::string& bus, int pid);
// What this process holds on these GPUs; all that is used there, where the driver does not tell processes apart.
Bytes gpu_memory(const std::set<std::string>& buses);

}  // namespace llmplan
