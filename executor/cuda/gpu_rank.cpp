// What libllmplan_cuda.so offers (executor/gpu.h).
#include <cublasLt.h>
#include <cuda_runtime.h>

#include <algorithm>
#include <string>

#include "executor/cuda/communicator.h"
#include "executor/cuda/cuda_backend.h"
#include "executor/cuda/status.h"
#include "executor/gpu.h"

namespace llmplan::cuda {
namespace {

// The arena of one space: device memory or pinned host memory, taken once, filled with NaN.
class GpuArena {
 public:
  GpuArena(Space space, Bytes size) : space_(space) {
    auto bytes = static_cast<std::size_t>(size.value);
    if (!bytes) return;
    if (space == Space::device) {
      check(cudaMalloc(&at_, bytes), "arena");
      check(cudaMemset(at_, 0xff, bytes), "arena");
    } else {
      check(cudaMallocHost(&at_, bytes), "host arena");
    }
  }
  ~GpuArena() {
    if (at_) space_ == Space::device ? cudaFree(at_) : cudaFreeHost(at_);
  }
  GpuArena(const GpuArena&) = delete;
  GpuArena& operator=(const GpuArena&) = delete;
  std::byte* data() const { return static_cast<std::byte*>(at_); }

 private:
  Space space_;
  void* at_ = nullptr;
};

class CudaRank final : public GpuRank {
 public:
  explicit CudaRank(const GpuRankOptions& o)
      : size_(o.device_arena), reserve_(backend_reserve(*o.programs.front())), device_(select(o)),
        arena_(Space::device, o.device_arena), host_(Space::host, o.host_arena),
        peers_(o.nccl_id.empty() ? nullptr : nccl_communicator(o.nccl_id, o.where)),
        backend_(o.device, o.where, peers_.get(), *o.optimizer, *o.programs.front(), arena_.data(), host_.data()) {}

  Bytes arena() const override { return size_; }
  Bytes reserve() const override { return reserve_; }
  void read(Space space, Bytes offset, std::span<std::byte> out) override {
    check(cudaSetDevice(device_), "device");
    check(cudaMemcpy(out.data(), at(space, offset), out.size(), cudaMemcpyDefault), "read");
  }
  void write(Space space, Bytes offset, std::span<const std::byte> in) override {
    check(cudaSetDevice(device_), "device");
    check(cudaMemcpy(at(space, offset), in.data(), in.size(), cudaMemcpyDefault), "write");
  }
  Timeline run(const Execution& execution, bool timed) override {
    backend_.begin(execution, timed);
    return execute(*execution.program, backend_);
  }

 private:
  // Before the arena is taken, because timing algorithms needs memory for their operands.
  static int select(const GpuRankOptions& o) {
    CudaBackend::tune(o.device, o.programs);
    return o.device;
  }
  std::byte* at(Space space, Bytes offset) const { return (space == Space::device ? arena_ : host_).data() + offset.value; }

  Bytes size_, reserve_;
  int device_;
  GpuArena arena_, host_;
  std::unique_ptr<GpuCommunicator> peers_;
  CudaBackend backend_;
};

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
    list.push_back({p.name, Bytes{static_cast<std::int64_t>(total)}, Bytes{static_cast<std::int64_t>(free)},
                    p.multiProcessorCount, p.major, p.minor});
  }
  return list;
}

std::string dotted(int version) { return std::to_string(version / 1000) + "." + std::to_string(version / 10 % 100); }

std::string versions() {
  int driver = 0, runtime = 0;
  cudaDriverGetVersion(&driver);  // 0 when there is none
  check(cudaRuntimeGetVersion(&runtime), "runtime");
  return (driver ? "driver " + dotted(driver) : "no driver") + ", runtime " + dotted(runtime) + ", cuBLASLt " +
         std::to_string(cublasLtGetVersion()) + ", NCCL " + nccl_version();
}

std::unique_ptr<GpuRank> make_rank(const GpuRankOptions& options) { return std::make_unique<CudaRank>(options); }

constexpr GpuApi kApi{kGpuApi, devices, versions, nccl_unique_id, make_rank};

}  // namespace
}  // namespace llmplan::cuda

extern "C" __attribute__((visibility("default"))) const llmplan::GpuApi* llmplan_gpu_api() { return &llmplan::cuda::kApi; }
