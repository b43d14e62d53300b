// The order of forward and backward passes of each pipeline stage.
#pragma once

#include <cstdint>
#include <string>
#include <vector>
#include "costmodel/strategy.h"

namespace llmplan {

struct Slot {
  enum class Pass : std::uint8_t { forward, backward } pass;
  std::int32_t micro_batch;
  bool operator==(const Slot&) const = default;
};
// Throws Error E0305 for a schedule that can only be estimated.
std::vector<Slot> compute_order(Schedule, int stage, int stages, std::int64_t micro_batches);
std::string compute_order_text(const std::vector<Slot>&);  // "F0 F1 B0 F2 B1 …"

}  // namespace llmplan
