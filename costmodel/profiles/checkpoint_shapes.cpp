#include "costmodel/profiles/checkpoint_shapes.h"

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <set>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "costmodel/error.h"
#include "costmodel/profiles/node.h"

namespace llmplan {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

[[noreturn]] void damaged(const fs::path& file, const std::string& why) {
  throw Error("E0206", Exit::data, fmt::format("'{}' {}", file.string(), why),
              "download the file again, or move it away to go by config.json alone");
}

// Not parameters: tables that are computed, and DeepSeek's routing bias that no gradient reaches.
bool is_buffer(const std::string& name) {
  return name.ends_with(".inv_freq") || name.ends_with(".e_score_correction_bias") ||
         name.ends_with(".masked_bias");
}

// safetensors: u64 N, little endian; N bytes of JSON; data. N ≤ 100,000,000.
json read_header(const fs::path& file) {
  std::error_code error;
  const auto size = fs::file_size(file, error);
  std::ifstream in(file, std::ios::binary);
  unsigned char raw[8];
  if (error || !in.read(reinterpret_cast<char*>(raw), 8))
    damaged(file, "is too short for a safetensors file");
  std::uint64_t length = 0;
  for (int i = 7; i >= 0; --i) length = length << 8 | raw[i];
  if (length > 100'000'000 || length > size - 8)
    damaged(file, "is not a safetensors file, or was cut off");
  std::string text(length, '\0');
  if (!in.read(text.data(), static_cast<std::streamsize>(length))) damaged(file, "cannot be read");
  json header = json::parse(text, nullptr, false);
  if (!header.is_object()) damaged(file, "has a header that is not JSON");
  return header;
}

void add_header(CheckpointShapes& out, const fs::path& file) {
  const json header = read_header(file);
  for (const auto& [name, entry] : header.items()) {
    if (name == "__metadata__") continue;
    const auto shape = entry.is_object() ? entry.find("shape") : entry.end();
    if (!entry.is_object() || shape == entry.end() || !shape->is_array())
      damaged(file, fmt::format("has no shape for '{}'", name));
    std::int64_t elements = 1;
    std::vector<std::int64_t> dims;
    for (const json& d : *shape) {
      if (!d.is_number_unsigned() ||
          __builtin_mul_overflow(elements, d.get<std::int64_t>(), &elements) || elements < 0)
        damaged(file, fmt::format("has an impossible shape for '{}'", name));
      dims.push_back(d.get<std::int64_t>());
    }
    if (!is_buffer(name) && __builtin_add_overflow(out.parameters, elements, &out.parameters))
      damaged(file, "holds more than any disk");
    if (!out.shapes.emplace(name, std::move(dims)).second)
      damaged(file, fmt::format("repeats '{}'", name));
  }
}

}  // namespace

std::optional<CheckpointShapes> read_checkpoint_shapes(const std::string& folder, int bytes_each) {
  CheckpointShapes out;
  std::error_code ignored;
  const fs::path index = fs::path(folder) / "model.safetensors.index.json",
                 single = fs::path(folder) / "model.safetensors";
  if (!fs::exists(index, ignored)) {
    if (!fs::exists(single, ignored)) return {};
    out.from = single.filename().string();
    add_header(out, single);
    for (const auto& [name, shape] : out.shapes) out.names.push_back(name);
    out.whole = true;
    return out;
  }
  out.from = index.filename().string();
  const json root = json::parse(read_profile_file(index.string()), nullptr, false);
  const auto map = root.is_object() ? root.find("weight_map") : root.end();
  if (!root.is_object() || map == root.end() || !map->is_object())
    damaged(index, "has no weight_map");
  std::set<std::string> shards;
  for (const auto& [name, file] : map->items()) {
    if (!file.is_string() || file.get<std::string>().find('/') != std::string::npos)
      damaged(index, fmt::format("does not say where '{}' is", name));
    out.names.push_back(name);
    shards.insert(file.get<std::string>());
  }
  std::sort(out.names.begin(), out.names.end());
  out.whole =
      !shards.empty() && std::all_of(shards.begin(), shards.end(), [&](const std::string& s) {
        return fs::exists(fs::path(folder) / s, ignored);
      });
  if (out.whole) {
    for (const std::string& s : shards) add_header(out, fs::path(folder) / s);
    return out;
  }
  const auto metadata = root.find("metadata");
  if (metadata == root.end() || !metadata->is_object()) return out;
  const auto number = [&](const char* key) -> std::int64_t {
    const auto n = metadata->find(key);
    return n != metadata->end() && n->is_number() && n->get<double>() > 0 && n->get<double>() < 9e18
               ? static_cast<std::int64_t>(n->get<double>())
               : 0;
  };
  out.parameters = number("total_parameters");
  if (out.parameters == 0 && bytes_each > 0) out.parameters = number("total_size") / bytes_each;
  return out;
}

std::vector<std::string> differences(const ModelConfig& m, const CheckpointShapes& c) {
  std::vector<std::string> out;
  std::set<std::string> counted;
  const auto text = [](const std::vector<std::int64_t>& shape) {
    return fmt::format("[{}]", fmt::join(shape, ", "));
  };
  // Some checkpoints hold the decoder alone, without the class's prefix: wte.weight for
  // transformer.wte.weight.
  const auto in_file = [&](const std::string& name) {
    if (std::binary_search(c.names.begin(), c.names.end(), name)) return name;
    const std::size_t dot = name.find('.');
    return dot != std::string::npos &&
                   std::binary_search(c.names.begin(), c.names.end(), name.substr(dot + 1))
               ? name.substr(dot + 1)
               : std::string();
  };
  std::size_t missing = 0, more = 0;
  for (const Tensor& t : tensors(m)) {
    const std::string name = in_file(t.name);
    if (name.empty()) {
      if (missing++ == 0)
        out.push_back(fmt::format("'{}' is counted but not in {}", t.name, c.from));
      continue;
    }
    counted.insert(name);
    const auto shape = c.shapes.find(name);
    if (shape != c.shapes.end() && shape->second != t.shape && out.size() < 5)
      out.push_back(fmt::format("'{}' is {} in {}, {} by the config", name, text(shape->second),
                                c.from, text(t.shape)));
  }
  for (const std::string& name : c.names) {
    if (counted.contains(name) || is_buffer(name)) continue;
    if (more++ == 0) out.push_back(fmt::format("'{}' is in {} but not counted", name, c.from));
  }
  if (missing > 1)
    out.push_back(fmt::format("… and {} more tensors that are not in {}", missing - 1, c.from));
  if (more > 1) out.push_back(fmt::format("… and {} more tensors that are not counted", more - 1));
  return out;
}

}  // namespace llmplan
