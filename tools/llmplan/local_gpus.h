// This machine's GPUs for `--cluster local`.
#pragma once

#include <vector>

#include "costmodel/profiles/local_gpus.h"

namespace llmplan::cli {

// For find_local_gpus_with(). Where there is no driver, the backend with its libraries is not even loaded.
std::vector<LocalGpu> local_gpus();

}  // namespace llmplan::cli
