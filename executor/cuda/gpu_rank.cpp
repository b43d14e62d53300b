// What libllmplan_cuda.so offers (executor/gpu.h).
#include <cublasLt.h>
#include <cuda_runtime.h>

#include <string>

#include "executor/cuda/communicator.h"
#include "executor/cuda/cuda_device.h"
#include "executor/cuda/cudnn_attention.h"
#include "executor/cuda/device_rank.h"
#include "executor/cuda/shared_gpu.h"
#include "executor/cuda/status.h"
#include "executor/gpu.h"

namespace llmplan::cuda {
namespace {

constexpr double kLanes = 128;  // fp32 lanes of a multiprocessor, Ampere consumer cards and Hopper on; A100 has 64

std::vector<GpuInfo> devices() {
  int count = 0;
  check(cudaGetDeviceCount(&count), "devices");
  std::vector<GpuInfo> list;
  for (int d = 0; d < count; ++d) {
    cudaDeviceProp p{};
    check(cudaGetDeviceProperties(&p, d), "properties");
    std::size_t free = 0, total = 0;
    check(cudaSetDevice(d), "device");
    check(cudaMemGetInfo(&free, &total), "memory");
    GpuInfo info{p.name, Bytes{static_cast<std::int64_t>(total)}, Bytes{static_cast<std::int64_t>(free)}, p.multiProcessorCount,
                 p.major, p.minor, {}, {}, bus_of(d)};
    // What nobody looks up in a profile; newer drivers may leave clocks out.
    int clock = 0, memory_clock = 0, bus_bits = 0;
    cudaDeviceGetAttribute(&clock, cudaDevAttrClockRate, d);
    cudaDeviceGetAttribute(&memory_clock, cudaDevAttrMemoryClockRate, d);
    cudaDeviceGetAttribute(&bus_bits, cudaDevAttrGlobalMemoryBusWidth, d);
    info.vector_peak = {2.0 * kLanes * p.multiProcessorCount * clock * 1e3};            // kHz
    info.memory_bandwidth = {2.0 * memory_clock * 1e3 * bus_bits / 8};                  // two transfers per clock
    list.push_back(std::move(info));
  }
  return list;
}

std::string dotted(int version) { return std::to_string(version / 1000) + "." + std::to_string(version / 10 % 100); }

std::string versions() {
  int driver = 0, runtime = 0;
  cudaDriverGetVersion(&driver);  // 0 when there is none
  check(cudaRuntimeGetVersion(&runtime), "runtime");
  return (driver ? "driver " + dotted(driver) : "no driver") + ", runtime " + dotted(runtime) + ", cuBLASLt " +
         std::to_string(cublasLtGetVersion()) + ", NCCL " + nccl_version() + ", " + cudnn_version();
}

std::shared_ptr<GpuPeers> make_peers(int tp, int dp, int pp) { return std::make_shared<SharedGpu>(tp, dp, pp); }

std::unique_ptr<GpuRank> make_rank(const GpuRankOptions& options) {
  auto device = make_cuda_device(options.device);
  auto communicator = options.nccl_id.empty()
                          ? shared_communicator(*device, options)
                          : nccl_communicator(options.nccl_id, options.where, std::dynamic_pointer_cast<SharedGpu>(options.peers));
  return make_device_rank(std::move(device), std::move(communicator), options);
}

constexpr GpuApi kApi{kGpuApi, devices, versions, nccl_unique_id, make_peers, make_rank};

}  // namespace
}  // namespace llmplan::cuda

extern "C" __attribute__((visibility("default"))) const llmplan::GpuApi* llmplan_gpu_api() { return &llmplan::cuda::kApi; }
