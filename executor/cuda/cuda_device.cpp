#include "executor/cuda/cuda_device.h"

#include <cuda_runtime.h>

#include "executor/cuda/cudnn_attention.h"
#include "executor/cuda/gemm.h"
#include "executor/cuda/launch.h"
#include "executor/cuda/status.h"

namespace llmplan::cuda {
namespace {

int selected(int device) {
  check(cudaSetDevice(device), "device");
  return device;
}

class CudaDevice final : public Device {
 public:
  explicit CudaDevice(int device) : device_(selected(device)), workspace_(*this, kGemmWorkspace), gemms_(workspace_.get()) {}

  void bind() override { check(cudaSetDevice(device_), "device"); }
  std::string bus() const override { return bus_of(device_); }

  void* allocate(std::size_t bytes) override {
    void* at = nullptr;
    const cudaError_t status = cudaMalloc(&at, bytes);
    if (status != cudaSuccess) cudaGetLastError();  // else the next launch would find it
    check(status, "device memory");
    return at;
  }
  void* allocate_pinned(std::size_t bytes) override {
    void* at = nullptr;
    check(cudaMallocHost(&at, bytes), "pinned memory");
    return at;
  }
  void release(void* at) noexcept override { cudaFree(at); }
  void release_pinned(void* at) noexcept override { cudaFreeHost(at); }
  void fill(void* to, int byte, std::size_t bytes) override {
    check(cudaMemset(to, byte, bytes), "fill");
    check(cudaStreamSynchronize(nullptr), "fill");
  }
  void transfer(void* to, const void* from, std::size_t bytes) override {
    check(cudaMemcpy(to, from, bytes, cudaMemcpyDefault), "transfer");
    // A copy from pageable memory may return before its last bytes arrive, and our streams do not wait for this one.
    check(cudaStreamSynchronize(nullptr), "transfer");
  }
  Bytes reserve() const override { return Bytes{static_cast<std::int64_t>(kGemmWorkspace)}; }

  StreamHandle make_stream() override {
    cudaStream_t s = nullptr;
    check(cudaStreamCreateWithFlags(&s, cudaStreamNonBlocking), "stream");
    return s;
  }
  EventHandle make_event(bool timed) override {
    cudaEvent_t e = nullptr;
    check(cudaEventCreateWithFlags(&e, timed ? cudaEventDefault : cudaEventDisableTiming), "event");
    return e;
  }
  void release(StreamHandle s) noexcept override { cudaStreamDestroy(s); }
  void release(EventHandle e) noexcept override { cudaEventDestroy(e); }
  void release(GraphHandle g) noexcept override { cudaGraphExecDestroy(g); }
  void record(EventHandle e, StreamHandle s) override { check(cudaEventRecord(e, s), "record"); }
  void wait(StreamHandle s, EventHandle e) override { check(cudaStreamWaitEvent(s, e, 0), "wait"); }
  bool idle(StreamHandle s) override {
    cudaError_t status = cudaStreamQuery(s);
    if (status == cudaErrorNotReady) return false;
    check(status, "step");
    return true;
  }
  void synchronize(StreamHandle s) override { check(cudaStreamSynchronize(s), "step"); }
  Seconds between(EventHandle from, EventHandle to) override {
    float ms = 0;
    check(cudaEventElapsedTime(&ms, from, to), "timeline");
    return {ms * 1e-3};
  }

  void copy(void* to, const void* from, std::size_t bytes, StreamHandle s) override {
    check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDefault, s), "copy");
  }
  void multiply(const Gemm& op, std::span<const std::byte* const> reads, std::span<std::byte* const> writes,
                StreamHandle s) override {
    const auto factor = [&](std::size_t i) { return i < reads.size() ? reinterpret_cast<const float*>(reads[i]) : nullptr; };
    gemms_.run(op, reads[0], reads[1], writes[0], s, factor(2), factor(3));
  }
  void launch(const Op& op, std::span<const std::byte* const> reads, std::span<std::byte* const> writes,
              const LaunchContext& context, StreamHandle s) override {
    cuda::launch(op, reads, writes, context, s);
  }
  void rank_sum(DType type, std::int64_t elements, std::span<const std::byte* const> in, std::byte* out, StreamHandle s) override {
    launch_rank_sum(type, elements, in, out, s);
  }

  // Shares the products' workspace: both run on the compute stream, one after another.
  AttentionLibrary* attention_library(std::string& why_not) override {
    if (!attention_ && why_no_attention_.empty()) attention_ = make_cudnn_attention(device_, workspace_.get(), kGemmWorkspace, why_no_attention_);
    why_not = why_no_attention_;
    return attention_.get();
  }

  void tune(const std::vector<Op>& ops) override {
    std::vector<Gemm> products;
    for (const Op& op : ops)
      if (auto* g = std::get_if<Gemm>(&op)) products.push_back(*g);
    gemms_.tune(products, gemm_cache_file(device_));
  }

  // Only what this thread does counts: other ranks' threads may allocate meanwhile.
  void begin_capture(StreamHandle s) override { check(cudaStreamBeginCapture(s, cudaStreamCaptureModeThreadLocal), "capture"); }
  GraphHandle end_capture(StreamHandle s) override {
    cudaGraph_t graph = nullptr;
    check(cudaStreamEndCapture(s, &graph), "capture");
    cudaGraphExec_t executable = nullptr;
    cudaError_t status = cudaGraphInstantiate(&executable, graph, 0);
    cudaGraphDestroy(graph);
    check(status, "graph");
    return executable;
  }
  void launch(GraphHandle g, StreamHandle s) override { check(cudaGraphLaunch(g, s), "graph"); }

 private:
  int device_;
  DeviceArray<std::byte> workspace_;
  Gemms gemms_;
  std::unique_ptr<AttentionLibrary> attention_;  // made when it is first asked for
  std::string why_no_attention_;
};

}  // namespace

std::string bus_of(int device) {
  char text[32] = "";
  check(cudaDeviceGetPCIBusId(text, sizeof text, device), "bus");
  return text;
}

std::unique_ptr<Device> make_cuda_device(int device) { return std::make_unique<CudaDevice>(device); }

}  // namespace llmplan::cuda
