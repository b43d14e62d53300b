#include "executor/mpi.h"

#include <dlfcn.h>

#include <filesystem>

namespace llmplan {
namespace {

MpiLibrary load() {
  std::error_code error;
  const auto folder = std::filesystem::read_symlink("/proc/self/exe", error).parent_path();
  std::string last = "this build has no MPI (configured without it)";
  // Beside the binary, where it is installed, and beside the tests of a build.
  for (const auto& path : {folder / "libllmplan_mpi.so", folder / "../lib/libllmplan_mpi.so", folder / "../libllmplan_mpi.so"}) {
    if (!std::filesystem::exists(path, error)) continue;
    // Global, because Open MPI's own plugins look for its symbols there. Never closed: MPI does not unload cleanly.
    void* handle = dlopen(path.c_str(), RTLD_NOW | RTLD_GLOBAL);
    if (!handle) {
      last = dlerror();  // names the library that is missing, e.g. libmpi.so.40
      continue;
    }
    auto entry = reinterpret_cast<const MpiApi* (*)()>(dlsym(handle, "llmplan_mpi_api"));
    if (entry && entry()->version == kMpiApi) return {entry(), ""};
    last = path.string() + " belongs to another version of llmplan";
  }
  return {nullptr, last};
}

}  // namespace

const MpiLibrary& mpi_library() {
  static const MpiLibrary library = load();
  return library;
}

}  // namespace llmplan
