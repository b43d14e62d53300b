// As much of libcuda.so.1 as cuDNN asks for while it makes a plan: kernels are compiled and "loaded", no device is ever
// found, nothing runs. Loaded before cuDNN, it stands in for the driver of machines that have none.
#include <cstddef>

namespace {

constexpr int kOk = 0, kNoDevice = 100;
int thing;
int give(void** out) {
  *out = &thing;
  return kOk;
}

}  // namespace

#pragma GCC visibility push(default)
extern "C" {

int cuInit(unsigned) { return kNoDevice; }
int cuGetExportTable(void**, const void*) { return kNoDevice; }
int cuDriverGetVersion(int* v) { *v = 13000; return kOk; }
int cuDeviceGetCount(int* v) { *v = 0; return kOk; }
int cuDeviceGet(int* v, int) { *v = 0; return kNoDevice; }
int cuDeviceGetAttribute(int* v, int, int) { *v = 0; return kNoDevice; }

int cuLibraryLoadData(void** out) { return give(out); }
int cuLibraryLoadFromFile(void** out) { return give(out); }
int cuLibraryGetKernel(void** out) { return give(out); }
int cuKernelGetFunction(void** out) { return give(out); }
int cuModuleLoadData(void** out) { return give(out); }
int cuModuleLoadDataEx(void** out) { return give(out); }
int cuModuleLoadFatBinary(void** out) { return give(out); }
int cuModuleGetFunction(void** out) { return give(out); }
int cuModuleGetGlobal_v2(void** out) { return give(out); }
int cuCtxGetCurrent(void** out) { return give(out); }
int cuStreamGetCtx(void*, void** out) { return give(out); }
int cuKernelGetAttribute(int* v) { *v = 0; return kOk; }
int cuFuncGetAttribute(int* v) { *v = 0; return kOk; }
int cuCtxGetDevice(int* v) { *v = 0; return kOk; }
int cuCtxGetLimit(std::size_t* v) { *v = 0; return kOk; }
int cuOccupancyMaxPotentialClusterSize(int* v) { *v = 1; return kOk; }
int cuOccupancyMaxActiveBlocksPerMultiprocessor(int* v) { *v = 1; return kOk; }
int cuGetErrorName(int, const char** text) { *text = "made up"; return kOk; }
int cuGetErrorString(int, const char** text) { *text = "made up"; return kOk; }

int cuCtxPopCurrent() { return kOk; }
int cuCtxPushCurrent() { return kOk; }
int cuFuncSetAttribute() { return kOk; }
int cuKernelSetAttribute() { return kOk; }
int cuLaunchKernel() { return kNoDevice; }
int cuLaunchKernelEx() { return kNoDevice; }
int cuLaunchCooperativeKernel() { return kNoDevice; }
int cuLibraryUnload() { return kOk; }
int cuLinkAddData() { return kOk; }
int cuLinkAddData_v2() { return kOk; }
int cuLinkAddFile_v2() { return kOk; }
int cuLinkComplete() { return kOk; }
int cuLinkCreate() { return kOk; }
int cuLinkCreate_v2() { return kOk; }
int cuLinkDestroy() { return kOk; }
int cuMemcpyDtoH_v2() { return kNoDevice; }
int cuModuleUnload() { return kOk; }
int cuStreamSynchronize() { return kOk; }
int cuTensorMapEncodeTiled() { return kOk; }
int cuDevicePrimaryCtxRelease() { return kOk; }
int cuDevicePrimaryCtxReset() { return kOk; }
int cuDevicePrimaryCtxRetain() { return kNoDevice; }

}  // extern "C"
#pragma GCC visibility pop
