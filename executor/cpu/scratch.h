// Working memory of the kernels outside the arena: per thread, kept between calls, grown to the largest
// need. kernel_scratch() in kernels.h says how much an op takes.
#pragma once

#include <cstdint>

namespace llmplan::cpu {

// One op's, written by its caller; one tile's; fp32 copies of operands that are stored in fewer bits.
enum class ScratchUse : std::uint8_t { shared, tile, widened };

float* scratch(ScratchUse, std::int64_t floats);   // page aligned; contents undefined
std::int64_t scratch_bytes(std::int64_t floats);   // what that takes: whole pages, huge ones if it is large
std::int64_t scratch_held();                       // by all threads of the process, now

}  // namespace llmplan::cpu
