#include "executor/rope_table.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numbers>

#include "costmodel/error.h"

namespace llmplan {

std::vector<double> rope_frequencies(const ModelConfig& m, std::int64_t seq) {
  const RopeScaling& r = m.rope_scaling;
  const auto d = static_cast<double>(m.head_dim);
  double theta = m.rope_theta;
  if (r.rope_type == "dynamic" && seq > m.max_position_embeddings && m.max_position_embeddings > 0) {
    // NTK-aware: the base grows with the sequence (transformers, modeling_rope_utils).
    double stretch = r.factor * static_cast<double>(seq) / static_cast<double>(m.max_position_embeddings) - (r.factor - 1);
    theta *= std::pow(stretch, d / (d - 2));
  }
  std::vector<double> frequencies;
  for (std::int64_t i = 0; i < m.head_dim / 2; ++i) {
    double f = std::pow(theta, -2 * static_cast<double>(i) / d);
    if (r.rope_type == "linear") {
      f /= r.factor;
    } else if (r.rope_type == "llama3") {
      // Wavelengths that turn seldom within the original context are divided by `factor`, those that turn
      // often are kept, and between the two a blend (Llama 3.1's reference code).
      double turns = static_cast<double>(r.original_max_position_embeddings) * f / (2 * std::numbers::pi);
      double keep = std::clamp((turns - r.low_freq_factor) / (r.high_freq_factor - r.low_freq_factor), 0.0, 1.0);
      f = keep * f + (1 - keep) * f / r.factor;
    } else if (r.rope_type != "default" && r.rope_type != "dynamic") {
      throw Error("E0203", Exit::usage, fmt::format("rope scaling '{}' cannot be run", r.rope_type),
                  "run can use default, linear, dynamic and llama3; estimates work for all");
    }
    frequencies.push_back(f);
  }
  return frequencies;
}

void fill_rope_table(const ModelConfig& m, std::int64_t seq, std::span<float> table) {
  auto frequencies = rope_frequencies(m, seq);
  std::size_t half = frequencies.size(), at = 0;
  for (std::int64_t position = 0; position < seq; ++position, at += 2 * half)
    for (std::size_t i = 0; i < half; ++i) {
      double angle = static_cast<double>(position) * frequencies[i];
      table[at + i] = static_cast<float>(std::cos(angle));
      table[at + half + i] = static_cast<float>(std::sin(angle));
    }
}

}  // namespace llmplan
