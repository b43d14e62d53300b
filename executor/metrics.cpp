#include "executor/metrics.h"

#include <cmath>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <sstream>

namespace llmplan {

std::string to_json(const StepMetrics& m) {
  nlohmann::ordered_json json = {{"step", m.step}, {"time", m.time}, {"loss", m.loss}, {"grad_norm", m.grad_norm},
                                 {"lr", m.lr}, {"tokens", m.tokens}, {"step_s", m.step_s}, {"tokens_per_s", m.tokens_per_s},
                                 {"tflops_per_device", m.tflops_per_device}, {"mfu", nullptr}, {"memory", m.memory.value}};
  if (m.mfu >= 0) json["mfu"] = m.mfu;
  if (m.held_out_loss >= 0) json["held_out_loss"] = m.held_out_loss;
  if (m.loss_scale != 1) json["loss_scale"] = m.loss_scale;
  if (m.skipped) json["skipped"] = true;
  if (!std::isfinite(m.loss)) json["loss_nonfinite"] = true;  // JSON has no NaN: the loss itself is null
  return json.dump();
}

MetricsLog::MetricsLog(const std::string& path, std::int64_t last_step) {
  if (std::filesystem::exists(path)) {
    std::istringstream lines(read_file(path));
    std::string kept;
    for (std::string line; std::getline(lines, line);) {
      auto json = nlohmann::json::parse(line, nullptr, false);
      if (!json.is_object() || json.value("step", last_step + 1) > last_step) continue;  // half a line, too
      if (!first_loss_ && json.contains("loss") && json["loss"].is_number()) first_loss_ = json["loss"].get<double>();
      kept += line + "\n";
    }
    write_file(path, kept);
  }
  out_.open(path);
}

void MetricsLog::write(const StepMetrics& m) {
  if (!first_loss_) first_loss_ = m.loss;
  out_.line(to_json(m));
}

}  // namespace llmplan
