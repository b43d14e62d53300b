#include "costmodel/error.h"
#include "executor/cuda/communicator.h"
#include "executor/cuda/shared_gpu.h"

namespace llmplan::cuda {
namespace {
[[noreturn]] void missing() {
  throw Error("E0513", Exit::environment, "this build has no NCCL", "install libnccl-dev and configure with -DLLMPLAN_NCCL=ON");
}
}  // namespace

std::string nccl_unique_id() { missing(); }
std::unique_ptr<GpuCommunicator> nccl_communicator(const std::string&, const Coordinates&, std::shared_ptr<SharedGpu>) { missing(); }
bool have_nccl() { return false; }
std::string nccl_version() { return "none"; }

}  // namespace llmplan::cuda
