#include "executor/cuda/cudnn_library.h"

#include <dlfcn.h>
#include <fmt/format.h>

#include <cstdlib>

#include "executor/cuda/cudnn_attention.h"

namespace llmplan::cuda {
namespace {

std::string dotted(std::size_t version) { return fmt::format("{}.{}.{}", version / 10000, version / 100 % 100, version % 100); }

CudnnLibrary load() {
  const char* named = std::getenv("LLMPLAN_CUDNN_LIBRARY");
  const std::string file = named && *named ? named : "libcudnn.so.9";
  void* handle = dlopen(file.c_str(), RTLD_NOW | RTLD_LOCAL);  // never closed: CUDA's libraries do not unload cleanly
  if (!handle) return {nullptr, dlerror()};                    // names the file
  static CudnnApi api;
  bool whole = true;
  const auto find = [&]<class F>(F& function, const char* name) {
    function = reinterpret_cast<F>(dlsym(handle, name));
    whole = whole && function;
  };
  find(api.version, "cudnnGetVersion");
  find(api.last_error, "cudnnGetLastErrorString");
  find(api.create, "cudnnCreate");
  find(api.destroy, "cudnnDestroy");
  find(api.set_stream, "cudnnSetStream");
  find(api.create_descriptor, "cudnnBackendCreateDescriptor");
  find(api.destroy_descriptor, "cudnnBackendDestroyDescriptor");
  find(api.set_attribute, "cudnnBackendSetAttribute");
  find(api.get_attribute, "cudnnBackendGetAttribute");
  find(api.finalize, "cudnnBackendFinalize");
  find(api.execute, "cudnnBackendExecute");
  if (!whole) return {nullptr, file + " is not cuDNN 9"};
  if (api.version() < kOldestCudnn)
    return {nullptr, fmt::format("cuDNN {} is older than {}", dotted(api.version()), dotted(kOldestCudnn))};
  return {&api, ""};
}

}  // namespace

const CudnnLibrary& cudnn_library() {
  static const CudnnLibrary library = load();
  return library;
}

void check(const CudnnApi& api, cudnnStatus_t status, const char* what) {
  if (status == CUDNN_STATUS_SUCCESS) return;
  char text[512] = "";
  api.last_error(text, sizeof text);
  throw CudnnRefusal(fmt::format("cuDNN refuses {} (status {}{}{})", what, static_cast<int>(status), *text ? ": " : "", text));
}

std::string cudnn_version() {
  const CudnnLibrary& library = cudnn_library();
  return library.api ? "cuDNN " + dotted(library.api->version()) : "no cuDNN (" + library.why_not + ")";
}

}  // namespace llmplan::cuda
