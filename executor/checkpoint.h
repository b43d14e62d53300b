// Checkpoints hold the model whole, by Hugging Face names, so that a run may go on under another
// strategy. docs/checkpoints.md
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>

#include "executor/ranks.h"

namespace llmplan {

struct Progress {
  std::int64_t step = 0;     // steps done
  std::int64_t samples = 0;  // sequences trained on: where the data goes on
};
// What must be the same for a run to go on as if it had never stopped: name → value.
using Identity = std::map<std::string, std::string>;
// What may differ, and then makes it another run from there on: the optimizer's numbers, the precision.
using Settings = std::map<std::string, std::string>;

// Writes DIR/step-00000100.safetensors, then removes all but the last two.
void save_checkpoint(const std::string& directory, const Ranks&, const Progress&, const Identity&, const Settings& = {});
// The one with the highest step, or nothing.
std::optional<std::string> latest_checkpoint(const std::string& directory);
// Error E0407 when it is of another model or run, E0408 when its checksum does not match.
Progress load_checkpoint(const std::string& path, Ranks&, const Identity&);

// "lr 0.003 -> 0.001, steps 20 -> 40": the settings that a checkpoint was written with and that are others here; empty: none,
// or it states none.
std::string changed_settings(const std::string& path, const Settings&);

// Starts from the weights in a safetensors file with Hugging Face names; moments stay 0.
void load_weights(const std::string& path, Ranks&);
// DIR/model.safetensors and DIR/config.json, for other software.
void export_weights(const std::string& directory, const Ranks&, const ModelConfig&);

}  // namespace llmplan
