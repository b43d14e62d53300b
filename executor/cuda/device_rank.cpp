#include "executor/cuda/device_rank.h"

#include <cstdlib>
#include <unordered_set>

#include "costmodel/error.h"
#include "executor/cuda/attention_choice.h"
#include "executor/cuda/cuda_backend.h"
#include "executor/cuda/shared_gpu.h"

namespace llmplan::cuda {
namespace {

std::size_t count(Bytes b) { return static_cast<std::size_t>(b.value); }

// The ops of all programs, each shape once.
std::vector<Op> shapes(const std::vector<const Program*>& programs) {
  std::unordered_set<Op, OpHash> seen;
  std::vector<Op> list;
  for (const Program* p : programs)
    for (const Instr& in : p->instrs)
      if (!is_transfer(in.op) && seen.insert(in.op).second) list.push_back(in.op);
  return list;
}

class DeviceRank final : public GpuRank {
 public:
  DeviceRank(std::unique_ptr<Device> device, std::unique_ptr<GpuCommunicator> peers, const GpuRankOptions& o)
      : device_(tuned(std::move(device), o)), attention_(chosen(*device_, o)), peers_(std::move(peers)), size_(o.device_arena),
        arena_(*device_, count(o.device_arena)), host_(*device_, count(o.host_arena)),
        backend_(*device_, o.where, peers_.get(), *o.optimizer, attention_, *o.programs.front(), arena_.get(), host_.get()) {
    device_->fill(arena_.get(), 0xff, count(size_));  // NaN: what nobody wrote shows
  }

  Bytes arena() const override { return size_; }
  std::string bus() const override { return device_->bus(); }
  std::string attention() const override { return text(attention_); }
  Bytes reserve() const override { return device_->reserve() + backend_.reserve(); }
  void read(Space space, Bytes offset, std::span<std::byte> out) override {
    device_->bind();
    device_->transfer(out.data(), at(space, offset), out.size());
  }
  void write(Space space, Bytes offset, std::span<const std::byte> in) override {
    device_->bind();
    device_->transfer(at(space, offset), in.data(), in.size());
  }
  Timeline run(const Execution& execution, bool timed) override {
    try {
      backend_.begin(execution, timed);
      return execute(*execution.program, backend_);
    } catch (const std::exception& e) {
      if (peers_) peers_->abort(e.what());
      throw;
    }
  }
  void cancel() noexcept override { backend_.cancel(); }

 private:
  // Both before the arena is taken, because timing algorithms needs memory for their operands.
  static std::unique_ptr<Device> tuned(std::unique_ptr<Device> device, const GpuRankOptions& o) {
    device->bind();
    device->tune(shapes(o.programs));
    return device;
  }
  static AttentionChoices chosen(Device& device, const GpuRankOptions& o) {
    const AttentionPolicy policy = attention_policy(std::getenv("LLMPLAN_ATTENTION"));
    std::string why_none;
    AttentionLibrary* library = policy == AttentionPolicy::own ? nullptr : device.attention_library(why_none);
    return choose_attention(device, library, why_none, shapes(o.programs), policy, attention_file(library));
  }
  std::byte* at(Space space, Bytes offset) const { return (space == Space::device ? arena_.get() : host_.get()) + offset.value; }

  std::unique_ptr<Device> device_;
  AttentionChoices attention_;
  std::unique_ptr<GpuCommunicator> peers_;
  Bytes size_;
  DeviceArray<std::byte> arena_;
  PinnedArray<std::byte> host_;
  CudaBackend backend_;
};

}  // namespace

std::unique_ptr<GpuRank> make_device_rank(std::unique_ptr<Device> device, std::unique_ptr<GpuCommunicator> communicator,
                                          const GpuRankOptions& options) {
  return std::make_unique<DeviceRank>(std::move(device), std::move(communicator), options);
}

std::unique_ptr<GpuCommunicator> shared_communicator(Device& device, const GpuRankOptions& o) {
  if (o.where.world == 1) return nullptr;
  auto* shared = dynamic_cast<SharedGpu*>(o.peers.get());
  if (!shared) throw Error("E0514", Exit::bug, "ranks that share a GPU were not introduced to each other", "please report this plan");
  return shared->communicator(device, o.where);
}

}  // namespace llmplan::cuda
