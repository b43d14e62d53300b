// A GPU that runs on the host. Work is only noted when it is enqueued; it is carried out while somebody waits for a
// stream, in an order that a seed chooses among all that streams and events allow. So a wait that is missing shows as
// a wrong result, and calls that CUDA would refuse or ignore (a wait for an event that was never recorded,
// allocation during a capture, a capture that a stream does not leave) are errors.
#pragma once

#include <memory>

#include "executor/cuda/device.h"
#include "executor/gpu.h"

namespace llmplan::cuda::test {

class EmulatedCard;  // what the ranks on one card share: streams, events, the order of work

std::shared_ptr<EmulatedCard> make_emulated_card(unsigned seed);
std::unique_ptr<Device> make_emulated_device(std::shared_ptr<EmulatedCard>);

// Stands in for the GPU library while it lives: a machine with one card, whose ranks are emulated.
class EmulatedMachine {
 public:
  explicit EmulatedMachine(unsigned seed = 1);
  ~EmulatedMachine();
  EmulatedMachine(const EmulatedMachine&) = delete;
  EmulatedMachine& operator=(const EmulatedMachine&) = delete;
  // What was enqueued since the start, by kind: "kernel", "attention" (of a library),
  // "product", "copy", "sum", "graph".
  std::int64_t count(const std::string& kind) const;

 private:
  GpuApi api_;
  GpuLibrary library_;
};

}  // namespace llmplan::cuda::test
