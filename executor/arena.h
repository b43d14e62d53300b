// One piece of memory per rank and space, taken once: all buffers of a program sit in it.
#pragma once

#include <cstddef>

#include "costmodel/units.h"

namespace llmplan {

class Arena {
 public:
  Arena() = default;
  enum class Use { own, shared };  // shared: with processes that are forked later, at the same address
  // Exactly `size` bytes, on huge pages where the system has them, every page present. Filled with 0xff,
  // which is NaN in every float format: what a program reads and nobody wrote cannot pass for data.
  explicit Arena(Bytes size, Use = Use::own);  // Error E0340
  ~Arena();
  Arena(Arena&&) noexcept;
  Arena& operator=(Arena&&) noexcept;

  std::byte* data() const { return data_; }
  Bytes allocated() const { return size_; }

 private:
  std::byte* data_ = nullptr;
  Bytes size_{};
};

}  // namespace llmplan
