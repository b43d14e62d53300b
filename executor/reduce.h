// Sums over ranks. All communicators on the host add with this one function, so their results are the
// same bits.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "costmodel/op.h"

namespace llmplan {

// out[i − begin] = Σ over ranks, in the order of `in`, of in[r][i], for elements [begin, end) of `type`.
// `out` may overlap an input at the same elements: a block is summed before it is stored. 16-bit floats
// are added in fp32 and rounded once. Error E0510 for a type that cannot be added.
void sum(DType type, std::span<const std::byte* const> in, std::byte* out, std::int64_t begin, std::int64_t end);

}  // namespace llmplan
