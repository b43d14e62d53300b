// Models and machines from files: models/*.yaml, hardware_profiles/*.yaml, a Hugging Face config.json,
// and the machine we are on. The only part of the cost model that reads anything.
// All functions throw Error E01xx (syntax, with line and caret) or E02xx (unknown name, with the nearest ones).
#pragma once

#include <string>
#include <vector>

#include "costmodel/cluster.h"
#include "costmodel/model.h"

namespace llmplan {

// The folder that holds models/ and hardware_profiles/: $LLMPLAN_DATA, else beside the binary's
// source or install tree.
std::string data_directory();

std::vector<std::string> model_names();     // built-in, sorted
ModelConfig read_model(const std::string& name_or_path);   // a name, a .yaml, a HF directory or config.json
ModelConfig parse_model(const std::string& yaml, const std::string& file);
// For a HF directory or config.json with safetensors (or their index) beside it: the parameters that these
// hold, 0 if there are none; and in what they differ from what the config says, for a warning.
std::int64_t checkpoint_parameters(const std::string& path);
std::vector<std::string> checkpoint_differences(const std::string& path);

std::vector<std::string> device_names();
Device read_device(const std::string& name_or_path);

// "local", "8xh100-80g-sxm", "6x4xa100-80g-sxm" (nodes × devices per node × device) or a YAML file.
Cluster read_cluster(const std::string& text);
// This machine's cores as devices_per_node devices, with the calibration if there is one.
Cluster local_cluster();
// $XDG_CACHE_HOME/llmplan/calibration.yaml or ~/.cache/…: where `calibrate` writes and local_cluster() looks.
std::string calibration_path();
std::string calibration_to_yaml(const Device&);

// "80 GiB", "450 GB/s", "2.4 us", "989 TFLOP/s": a number and a unit, nothing else. Used by flags too.
Bytes parse_bytes(const std::string&);
std::int64_t parse_count(const std::string&);   // "100B", "1.5M", "4096"

// The closest of `names` to `word`, best first, at most `n`, none that is far off.
std::vector<std::string> nearest(const std::string& word, const std::vector<std::string>& names, int n = 3);

}  // namespace llmplan
