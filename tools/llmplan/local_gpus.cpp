#include "tools/llmplan/local_gpus.h"

#include <dlfcn.h>

#include "executor/gpu.h"

namespace llmplan::cli {

std::vector<LocalGpu> local_gpus() {
  static const bool driver = dlopen("libcuda.so.1", RTLD_LAZY | RTLD_LOCAL) != nullptr;
  std::vector<LocalGpu> out;
  if (driver)
    for (const GpuInfo& g : gpus()) out.push_back({g.name, g.memory, g.multiprocessors, g.vector_peak, g.memory_bandwidth});
  return out;
}

}  // namespace llmplan::cli
