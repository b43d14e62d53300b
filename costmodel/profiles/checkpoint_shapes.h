// What lies beside a config.json: the tensors of a safetensors checkpoint, by index or by headers.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "costmodel/model.h"

namespace llmplan {

struct CheckpointShapes {
  std::string from;                                         // the file that told
  std::map<std::string, std::vector<std::int64_t>> shapes;  // of the shards that are there
  std::vector<std::string> names;                           // sorted; of all tensors
  std::int64_t parameters = 0;                              // 0: not known
  bool whole = false;                                       // every shard was there
};

// Nothing if the folder has no safetensors file. `bytes_each` is the size of one parameter by the
// config's dtype, for an index whose shards are elsewhere. Throws E0206 for a damaged file.
std::optional<CheckpointShapes> read_checkpoint_shapes(const std::string& folder, int bytes_each);

// Where the checkpoint and the model that was read from its config.json differ; empty if they
// agree.
std::vector<std::string> differences(const ModelConfig&, const CheckpointShapes&);

}  // namespace llmplan
