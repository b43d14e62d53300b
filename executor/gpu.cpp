#include "executor/gpu.h"

#include <dlfcn.h>

#include <cstdlib>
#include <filesystem>

#include "costmodel/error.h"

namespace llmplan {
namespace {

GpuLibrary load() {
  if (const char* device = std::getenv("LLMPLAN_DEVICE"); device && std::string(device) == "cpu")
    return {nullptr, "LLMPLAN_DEVICE=cpu"};
  std::error_code error;
  auto folder = std::filesystem::read_symlink("/proc/self/exe", error).parent_path();
  // Where to look: LLMPLAN_CUDA_LIBRARY says it for programs that lie elsewhere, such as benchmarks.
  std::string last = "this build has no GPU backend (configured without CUDA)";
  std::vector<std::filesystem::path> places{folder / "libllmplan_cuda.so", folder / "../lib/libllmplan_cuda.so"};
  if (const char* named = std::getenv("LLMPLAN_CUDA_LIBRARY"); named && *named) places = {named};
  for (const auto& path : places) {
    if (!std::filesystem::exists(path, error)) continue;
    void* handle = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);  // never closed: CUDA does not unload cleanly
    if (!handle) {
      last = dlerror();  // names the library that is missing, e.g. libcublasLt.so.13
      continue;
    }
    auto entry = reinterpret_cast<const GpuApi* (*)()>(dlsym(handle, "llmplan_gpu_api"));
    if (entry && entry()->version == kGpuApi) return {entry(), ""};
    last = path.string() + " belongs to another version of llmplan";
  }
  return {nullptr, last};
}

const GpuLibrary* stand_in = nullptr;

}  // namespace

const GpuLibrary& gpu_library() {
  if (stand_in) return *stand_in;
  static const GpuLibrary library = load();
  return library;
}

void use_gpu_library(const GpuLibrary* library) { stand_in = library; }

std::vector<GpuInfo> gpus(std::string* why_not) {
  const GpuLibrary& library = gpu_library();
  std::string reason = library.why_not;
  if (library.api) {
    try {
      return library.api->devices();
    } catch (const Error& e) {
      reason = e.message;
    }
  }
  if (why_not) *why_not = reason;
  return {};
}

GpuSummary gpu_summary() {
  GpuSummary s;
  s.gpus = gpus(&s.why_none);
  if (const GpuApi* api = gpu_library().api) s.versions = api->versions();
  return s;
}

}  // namespace llmplan
