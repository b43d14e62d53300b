// MPI as the executor sees it. It lies in a library of its own, libllmplan_mpi.so beside the binary, which is
// loaded when an MPI launcher started this process: everything else runs on machines without MPI.
#pragma once

#include <memory>
#include <string>

#include "executor/transport.h"

namespace llmplan {

struct MpiApi {
  int version;  // kMpiApi; another one is refused
  // Error E0515 when this MPI does not allow calls from several threads.
  std::unique_ptr<Transport> (*start)();
  std::string (*library)();  // "Open MPI v4.1.4, ..."
};
inline constexpr int kMpiApi = 2;

struct MpiLibrary {
  const MpiApi* api = nullptr;  // null: not to be had
  std::string why_not;          // then: one sentence
};
const MpiLibrary& mpi_library();  // loads it once

}  // namespace llmplan
