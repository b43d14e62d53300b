// The angles of rotary positions.
#pragma once

#include <span>
#include <vector>

#include "costmodel/model.h"

namespace llmplan {

// θ_i for i < head_dim/2, scaled as config.json says. Error E0203 for scalings that cannot be run.
std::vector<double> rope_frequencies(const ModelConfig&, std::int64_t seq);

// table[seq, head_dim]: cos(position·θ_i) for head_dim/2 angles, then sin.
void fill_rope_table(const ModelConfig&, std::int64_t seq, std::span<float> table);

}  // namespace llmplan
