// What the interpreter asks of a GPU. CudaDevice (cuda_device.cpp) is the CUDA runtime; the tests' EmulatedDevice
// runs the same calls on the host, late and in any order that streams and events allow. So the code that issues
// a program's work, captures it and lets ranks meet is tested without a GPU.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "costmodel/op.h"
#include "executor/cuda/attention_library.h"
#include "executor/cuda/launch_context.h"

struct CUstream_st;  // cudaStream_t, cudaEvent_t and cudaGraphExec_t point to these
struct CUevent_st;
struct CUgraphExec_st;

namespace llmplan::cuda {

using StreamHandle = CUstream_st*;
using EventHandle = CUevent_st*;
using GraphHandle = CUgraphExec_st*;

// One rank's view of a GPU. Ranks may share a GPU: then handles of one are valid for the other. Everything throws
// Error E0511 (CUDA) or E0512 (cuBLASLt), but for the releases.
class Device {
 public:
  virtual ~Device() = default;
  virtual void bind() = 0;  // this thread's calls are for this GPU; before anything else in a thread
  virtual std::string bus() const = 0;  // the GPU's PCI address

  virtual void* allocate(std::size_t bytes) = 0;         // device memory
  virtual void* allocate_pinned(std::size_t bytes) = 0;  // host memory that the GPU reaches
  virtual void release(void* device_memory) noexcept = 0;
  virtual void release_pinned(void* host_memory) noexcept = 0;
  virtual void fill(void* to, int byte, std::size_t bytes) = 0;                // returns when done
  virtual void transfer(void* to, const void* from, std::size_t bytes) = 0;    // any direction; returns when done
  virtual Bytes reserve() const = 0;                     // device memory that the view itself holds

  virtual StreamHandle make_stream() = 0;
  virtual EventHandle make_event(bool timed) = 0;
  virtual void release(StreamHandle) noexcept = 0;
  virtual void release(EventHandle) noexcept = 0;
  virtual void release(GraphHandle) noexcept = 0;
  virtual void record(EventHandle, StreamHandle) = 0;
  // The stream goes on when the event's latest record has been reached. An event that was never recorded would
  // not be waited for: callers record first.
  virtual void wait(StreamHandle, EventHandle) = 0;
  virtual bool idle(StreamHandle) = 0;          // all work of the stream is done
  virtual void synchronize(StreamHandle) = 0;
  virtual Seconds between(EventHandle from, EventHandle to) = 0;  // both timed and reached

  // Work. Each call enqueues and returns.
  virtual void copy(void* to, const void* from, std::size_t bytes, StreamHandle) = 0;
  // Operands in the order of op.h.
  virtual void multiply(const Gemm&, std::span<const std::byte* const> reads, std::span<std::byte* const> writes,
                        StreamHandle) = 0;
  // Every other compute op.
  virtual void launch(const Op&, std::span<const std::byte* const> reads, std::span<std::byte* const> writes,
                      const LaunchContext&, StreamHandle) = 0;
  // out = Σ over ranks in rank order; `out` may be one of the inputs.
  virtual void rank_sum(DType, std::int64_t elements, std::span<const std::byte* const> in, std::byte* out, StreamHandle) = 0;

  // Another implementation of attention, for this view alone; null, with the reason, where there is none.
  virtual AttentionLibrary* attention_library(std::string& why_not) = 0;

  // Chooses how matrix products will be carried out; may time them, which takes device memory until it returns.
  virtual void tune(const std::vector<Op>&) = 0;

  // Between the two, work of the stream, and of streams that wait for it, is recorded and not run.
  virtual void begin_capture(StreamHandle) = 0;
  virtual GraphHandle end_capture(StreamHandle) = 0;
  virtual void launch(GraphHandle, StreamHandle) = 0;
};

// ---- What a rank owns of a device; lives no longer than it.

template <class T>
class DeviceArray {
 public:
  DeviceArray(Device& device, std::size_t count) : device_(device), at_(device.allocate((count ? count : 1) * sizeof(T))) {}
  ~DeviceArray() { device_.release(at_); }
  DeviceArray(const DeviceArray&) = delete;
  DeviceArray& operator=(const DeviceArray&) = delete;
  T* get() const { return static_cast<T*>(at_); }

 private:
  Device& device_;
  void* at_;
};

template <class T>
class PinnedArray {
 public:
  PinnedArray(Device& device, std::size_t count) : device_(device), at_(device.allocate_pinned((count ? count : 1) * sizeof(T))) {}
  ~PinnedArray() { device_.release_pinned(at_); }
  PinnedArray(const PinnedArray&) = delete;
  PinnedArray& operator=(const PinnedArray&) = delete;
  T* get() const { return static_cast<T*>(at_); }

 private:
  Device& device_;
  void* at_;
};

// A stream, event or graph; empty after a move.
template <class Handle>
class Owned {
 public:
  Owned() = default;
  Owned(Device& device, Handle handle) : device_(&device), handle_(handle) {}
  Owned(Owned&& o) noexcept : device_(o.device_), handle_(std::exchange(o.handle_, nullptr)) {}
  Owned& operator=(Owned&& o) noexcept {
    std::swap(device_, o.device_);
    std::swap(handle_, o.handle_);
    return *this;
  }
  ~Owned() {
    if (handle_) device_->release(handle_);
  }
  Handle get() const { return handle_; }
  explicit operator bool() const { return handle_ != nullptr; }

 private:
  Device* device_ = nullptr;
  Handle handle_ = nullptr;
};
using OwnedStream = Owned<StreamHandle>;
using OwnedEvent = Owned<EventHandle>;
using OwnedGraph = Owned<GraphHandle>;

}  // namespace llmplan::cuda
