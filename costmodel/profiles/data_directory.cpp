#include <algorithm>
#include <cstdlib>
#include <filesystem>

#include <fmt/format.h>

#include "costmodel/error.h"
#include "costmodel/profiles/files.h"
#include "costmodel/profiles/profiles.h"

namespace llmplan {

namespace fs = std::filesystem;

std::string data_directory() {
  std::error_code ignored;
  const char* chosen = std::getenv("LLMPLAN_DATA");
  if (chosen && *chosen) {
    if (fs::is_directory(fs::path(chosen) / "models", ignored)) return chosen;
    throw Error("E0521", Exit::environment,
                fmt::format("LLMPLAN_DATA is '{}', which has no folder models/", chosen),
                "point it to the folder that holds models/ and hardware_profiles/, or unset it");
  }
  const fs::path binary = fs::read_symlink("/proc/self/exe", ignored);
  const fs::path places[] = {LLMPLAN_SOURCE_DIR,
                             binary.parent_path().parent_path() / "share/llmplan"};
  for (const fs::path& place : places)
    if (fs::is_directory(place / "models", ignored)) return place.lexically_normal().string();
  throw Error("E0521", Exit::environment, "models/ and hardware_profiles/ were not found",
              fmt::format("looked in {} and {}; set LLMPLAN_DATA to the folder that holds them",
                          places[0].string(), places[1].string()));
}

std::vector<std::string> yaml_names(const std::string& folder) {
  std::vector<std::string> names;
  std::error_code ignored;
  for (const auto& entry : fs::directory_iterator(fs::path(data_directory()) / folder, ignored))
    if (entry.path().extension() == ".yaml") names.push_back(entry.path().stem().string());
  std::sort(names.begin(), names.end());
  return names;
}

bool looks_like_path(const std::string& text) {
  return text.find('/') != std::string::npos || text.ends_with(".yaml") || text.ends_with(".yml") ||
         text.ends_with(".json");
}

}  // namespace llmplan
