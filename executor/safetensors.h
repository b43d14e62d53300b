// The safetensors format: u64 header size, JSON header, raw data. Reading checks every rule of the
// format; writing streams, so that a checkpoint never exists twice in memory.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "executor/file.h"

namespace llmplan {

struct SafeTensor {
  std::string name;
  std::string dtype;                // "F32", "BF16", "I64", …
  std::vector<std::int64_t> shape;
  std::int64_t begin = 0, end = 0;  // bytes in the data part
  std::int64_t elements() const;
};

class SafeTensors {
 public:
  explicit SafeTensors(const std::string& path);  // Errors E0401, E0406

  const std::string& path() const { return file_.path(); }
  const std::vector<SafeTensor>& tensors() const { return tensors_; }  // by offset
  const std::map<std::string, std::string>& metadata() const { return metadata_; }
  const SafeTensor* find(const std::string& name) const;
  // All or a part of a tensor as floats; it must be F32, F64, BF16 or F16.
  std::vector<float> read(const SafeTensor&) const;
  void read(const SafeTensor&, std::int64_t first, std::span<float> out) const;
  std::vector<std::int64_t> read_integers(const SafeTensor&) const;  // I64, I32, U8
  std::uint64_t checksum() const;  // of the data part, in the order of offsets

 private:
  InputFile file_;
  std::vector<SafeTensor> tensors_;
  std::map<std::string, std::string> metadata_;
  std::int64_t data_ = 0;  // offset of the data part
};

struct FloatTensor {  // what to write: F32
  std::string name;
  std::vector<std::int64_t> shape;
};
// Writes atomically. `fill` gives tensor i's elements from `first` on, in pieces of at most kPiece. The
// metadata gets a "checksum" of the data.
inline constexpr std::int64_t kPiece = std::int64_t{1} << 20;  // elements
void write_safetensors(const std::string& path, const std::vector<FloatTensor>& tensors,
                       std::map<std::string, std::string> metadata,
                       const std::function<void(std::size_t i, std::int64_t first, std::span<float> out)>& fill);

}  // namespace llmplan
