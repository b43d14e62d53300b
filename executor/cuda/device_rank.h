// A rank on a GPU behind the executor's seam (executor/gpu.h): arenas, communicator, interpreter.
#pragma once

#include <memory>

#include "executor/cuda/communicator.h"
#include "executor/cuda/device.h"
#include "executor/gpu.h"

namespace llmplan::cuda {

// `communicator` may use the device, and is null for a single rank.
std::unique_ptr<GpuRank> make_device_rank(std::unique_ptr<Device>, std::unique_ptr<GpuCommunicator>, const GpuRankOptions&);
// Of a rank that shares its GPU with the others of options.peers; null for a single rank.
std::unique_ptr<GpuCommunicator> shared_communicator(Device&, const GpuRankOptions&);

}  // namespace llmplan::cuda
