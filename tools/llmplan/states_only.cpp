#include "tools/llmplan/states_only.h"

#include <filesystem>

#include <fmt/format.h>

#include "costmodel/profiles/profiles.h"
#include "costmodel/runtime_case.h"
#include "tools/llmplan/format.h"
#include "tools/llmplan/table.h"

namespace llmplan::cli {

std::int64_t counted_parameters(const std::string& model) {
  std::error_code ignored;
  const bool folder = std::filesystem::is_directory(model, ignored);
  if (!folder && !(model.ends_with(".json") && std::filesystem::exists(model, ignored))) return 0;
  return checkpoint_parameters(model);
}

std::string states_table(std::int64_t parameters, const Cluster& cluster, const Runtime& runtime, const Workload& w) {
  const std::int64_t devices = cluster.devices();
  const bool fp32 = w.precision == DType::fp32;
  const auto share = [&](double bytes_each, bool sharded) {  // whole bytes of the fullest rank
    const std::int64_t elements = sharded ? (parameters + devices - 1) / devices : parameters;
    return rounded(static_cast<double>(elements) * bytes_each);
  };
  const double optimizer = state_bytes(w.optimizer.kind) + (runtime.master_weights && !fp32 ? 4 : 0);
  std::vector<std::vector<std::string>> rows;
  for (int zero = 0; zero <= (devices > 1 ? 3 : 0); ++zero) {
    const Bytes weights = share(fp32 ? 4 : 2, zero >= 3), gradients = share(fp32 ? 4 : runtime.gradient_bytes, zero >= 2);
    const Bytes states = share(optimizer, zero >= 1), sum = weights + gradients + states;
    const bool over = cluster.device.memory.value > 0 && sum > cluster.device.memory;
    rows.push_back({zero == 0 ? fmt::format("dp{}", devices) : fmt::format("dp{} zero{}", devices, zero), grouped(weights.value),
                    grouped(gradients.value), grouped(states.value), grouped(sum.value), bytes_text(sum),
                    over ? "no: more than " + bytes_text(cluster.device.memory) + " without any activation" : "as far as is known"});
  }
  return fmt::format("{} parameters counted; bytes per device of what does not depend on the architecture\n", grouped(parameters)) +
         table({{"strategy", Align::left}, {"weights"}, {"gradients"}, {"optimizer"}, {"together"}, {""}, {"fits", Align::left}}, rows) +
         " activations, communication and time are not available: they follow from the architecture\n";
}

}  // namespace llmplan::cli
