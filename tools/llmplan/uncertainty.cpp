#include "tools/llmplan/uncertainty.h"

#include <cmath>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "costmodel/profiles/residual_file.h"
#include "costmodel/profiles/runtime_profile.h"
#include "tools/llmplan/format.h"

namespace llmplan::cli {
namespace {

std::string basis(const Residuals::Interval& i, const std::string& runtime) {
  if (!i.known()) return fmt::format("no run of {} on this device has been measured", runtime);
  return fmt::format("{} measured runs of {} {}, {}", i.rows, i.sources, i.sources == 1 ? "source" : "sources",
                     i.same_software ? "all of " + runtime : "other software among them");
}

Json interval_json(const Residuals::Interval& i, double value, bool integer) {
  if (!i.known()) return nullptr;
  const double low = value / (1 + i.relative), high = value * (1 + i.relative);
  return integer ? Json::array({std::llround(low), std::llround(high)}) : Json::array({low, high});
}

std::string percent(double x) { return fmt::format("{:.{}f} %", 100 * x, x < 0.0095 ? 1 : 0); }

}  // namespace

Uncertainty uncertainty_of(const ModelConfig& m, const Cluster& c, const Workload& w, const Strategy& s) {
  static const Residuals residuals = read_residuals();
  const std::string base = w.runtime == kOwnSource ? "" : read_runtime(w.runtime).base;
  const Features f = features_of(m, c, w, s, w.runtime, base);
  Uncertainty u{residuals.interval(f, Metric::time), residuals.interval(f, Metric::memory), false};
  u.exact_arena = w.runtime == kOwnSource && why_not_lowerable(m, w, s).empty();
  if (w.runtime == kOwnSource && c.device.cpu && c.device.measured.empty())
    u.time.outside.insert(u.time.outside.begin(), "this machine is not calibrated; the runs were made on one that is");
  return u;
}

Json uncertainty_json(const Uncertainty& u, const Estimate& e) {
  const std::string& runtime = u.exact_arena ? kOwnSource : "this software";
  Json outside = {{"time", u.time.outside}, {"memory", u.memory.outside}};
  return {{"time", known(u.time.relative)},
          {"memory", known(u.memory.relative)},
          {"level", kLevel},
          {"time_interval", interval_json(u.time, e.time.step.value, false)},
          {"memory_interval", interval_json(u.memory, static_cast<double>(e.memory.peak.value), true)},
          {"rows", {{"time", u.time.rows}, {"memory", u.memory.rows}}},
          {"sources", {{"time", u.time.sources}, {"memory", u.memory.sources}}},
          {"basis", {{"time", basis(u.time, runtime)},
                     {"memory", u.exact_arena ? "the arena is exact; the reserve beside it is not measured" : basis(u.memory, runtime)}}},
          {"outside", outside}};
}

std::string uncertainty_text(const Uncertainty& u, const Estimate& e) {
  std::string text;
  const std::string runtime = u.exact_arena ? kOwnSource : "this software";
  if (u.time.known())
    text += fmt::format(" step {}: of comparable measured runs, 4 of 5 took between {} and {} (a factor of {:.2f})\n   rests on {}\n",
                        seconds_text(e.time.step), seconds_text(e.time.step / (1 + u.time.relative)),
                        seconds_text(e.time.step * (1 + u.time.relative)), 1 + u.time.relative, basis(u.time, runtime));
  else
    text += fmt::format(" step {}: how far off that may be is not known, {}\n", seconds_text(e.time.step), basis(u.time, runtime));
  if (u.exact_arena)
    text += fmt::format(" peak {}: the arena in it is allocated to the byte, the reserve of {} is not measured\n",
                        bytes_text(e.memory.peak), bytes_text(e.memory.reserve));
  else if (u.memory.known())
    text += fmt::format(" peak {}: within {} in 4 of 5, of {}\n", bytes_text(e.memory.peak), percent(u.memory.relative), basis(u.memory, runtime));
  else
    text += fmt::format(" peak {}: how far off that may be is not known, {}\n", bytes_text(e.memory.peak), basis(u.memory, runtime));
  const auto outside = [&](const char* what, const std::vector<std::string>& list) {
    if (!list.empty()) text += fmt::format(" outside what has been validated ({}): {}\n", what, fmt::join(list, "; "));
  };
  if (u.time.outside == u.memory.outside) {
    outside("time and memory", u.time.outside);
  } else {
    outside("time", u.time.outside);
    if (!u.exact_arena) outside("memory", u.memory.outside);
  }
  return text;
}

}  // namespace llmplan::cli
