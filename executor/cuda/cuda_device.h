// A GPU through the CUDA runtime and cuBLASLt.
#pragma once

#include <memory>

#include "executor/cuda/device.h"

namespace llmplan::cuda {

std::unique_ptr<Device> make_cuda_device(int device);
std::string bus_of(int device);  // PCI address: "0000:1b:00.0"

}  // namespace llmplan::cuda
