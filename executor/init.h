// Initial weights, as a function of the seed, the tensor's name and the element's place in the full
// tensor: every strategy starts from the same model.
#pragma once

#include <cstdint>
#include <span>

#include "planner/program.h"

namespace llmplan {

// Normal with deviation 0.02; projections back into the residual stream scaled by 1/sqrt(2·layers)
// (GPT-2's initialization); norms 1. Padding rows are 0. Gives elements
// [first, first + size) of the rank's part of `p`.
void init_weights(const Param& p, int tp_rank, std::int64_t layers, std::uint64_t seed, std::int64_t first,
                  std::span<float> out);

}  // namespace llmplan
