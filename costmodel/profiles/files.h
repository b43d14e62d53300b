// Where profiles lie on disk.
#pragma once

#include <string>
#include <vector>

namespace llmplan {

std::vector<std::string> yaml_names(
    const std::string& folder);                 // of data_directory(), sorted, no extension
bool looks_like_path(const std::string& text);  // "./x", "x.yaml", "x.json"

}  // namespace llmplan
