// cuDNN, loaded when somebody asks for it: llmplan is built with its headers alone, and runs without it.
#pragma once

#include <cudnn.h>

#include <cstdint>
#include <stdexcept>
#include <string>

namespace llmplan::cuda {

struct CudnnApi {
  decltype(&cudnnGetVersion) version;
  decltype(&cudnnGetLastErrorString) last_error;
  decltype(&cudnnCreate) create;
  decltype(&cudnnDestroy) destroy;
  decltype(&cudnnSetStream) set_stream;
  decltype(&cudnnBackendCreateDescriptor) create_descriptor;
  decltype(&cudnnBackendDestroyDescriptor) destroy_descriptor;
  decltype(&cudnnBackendSetAttribute) set_attribute;
  decltype(&cudnnBackendGetAttribute) get_attribute;
  decltype(&cudnnBackendFinalize) finalize;
  decltype(&cudnnBackendExecute) execute;
};

struct CudnnLibrary {
  const CudnnApi* api = nullptr;  // null: not to be had
  std::string why_not;            // then: one sentence
};

// 9.10.0 and 9.10.1 have known mistakes in attention, as NVIDIA's frontend says; before 9.6 callers must clear memory.
inline constexpr std::size_t kOldestCudnn = 91002;

// Loads libcudnn.so.9, or what LLMPLAN_CUDNN_LIBRARY names, once. cuDNN loads its other parts itself.
const CudnnLibrary& cudnn_library();

// What cuDNN will not do; caught where llmplan's own kernels take over.
struct CudnnRefusal : std::runtime_error {
  using std::runtime_error::runtime_error;
};
// Throws CudnnRefusal, with cuDNN's own words, unless the call succeeded.
void check(const CudnnApi&, cudnnStatus_t, const char* what);

}  // namespace llmplan::cuda
