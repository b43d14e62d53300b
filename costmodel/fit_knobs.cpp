#include "costmodel/fit_knobs.h"

#include <algorithm>

namespace llmplan {
namespace {

void scale(Curve& c, double factor) {
  for (auto& [x, y] : c.points) y = std::min(1.0, y * factor);
}
double highest(const Curve& c) {
  double top = 0;
  for (const auto& [x, y] : c.points) top = std::max(top, y);
  return top;
}

struct RuntimeMember {
  const char* name;
  double Runtime::*member;
  Seconds Runtime::*seconds;
  double low, high;
};
// The runtime's constants of time. Those of memory are exact by nature (bytes per element) and are not fitted.
const RuntimeMember kRuntimeMembers[] = {
    {"step_overhead", nullptr, &Runtime::step_overhead, 1e-4, 1},
    {"dispatch", nullptr, &Runtime::dispatch, 1e-6, 1e-4},
    {"pointwise", &Runtime::pointwise, nullptr, 0.5, 10},
    {"attention_rate", &Runtime::attention_rate, nullptr, 0.3, 1},
    {"loss_bytes", &Runtime::loss_bytes, nullptr, 4, 60},
    {"score_bytes_forward", &Runtime::score_bytes_forward, nullptr, 4, 40},
    {"score_bytes_backward", &Runtime::score_bytes_backward, nullptr, 4, 40},
    {"fp8_cast_bytes", &Runtime::fp8_cast_bytes, nullptr, 0.5, 8},
    {"optimizer_traffic", &Runtime::optimizer_traffic, nullptr, 0.5, 8},
    {"collective_dispatch", nullptr, &Runtime::collective_dispatch, 1e-6, 1e-3},
    {"lockstep", &Runtime::lockstep, nullptr, 0, 0.5},
    {"micro_batch_overhead", nullptr, &Runtime::micro_batch_overhead, 1e-5, 0.1},
    {"tp_overlap", &Runtime::tp_overlap, nullptr, 0, 1},
    {"cp_overlap", &Runtime::cp_overlap, nullptr, 0, 1},
    {"ep_overlap", &Runtime::ep_overlap, nullptr, 0, 1},
    {"pp_overlap", &Runtime::pp_overlap, nullptr, 0, 1},
    {"dp_overlap", &Runtime::dp_overlap, nullptr, 0, 1},
    {"gather_overlap", &Runtime::gather_overlap, nullptr, 0, 1},
    {"straggling", &Runtime::straggling, nullptr, 0, 0.03},
};
const std::pair<const char*, Curve Device::*> kDeviceCurves[] = {
    {"gemm_efficiency", &Device::gemm_efficiency},
    {"attention_efficiency", &Device::attention_efficiency},
    {"memory_efficiency", &Device::memory_efficiency}};

// The runtime that `runtime` is derived from, if it is here; else itself.
std::size_t base_of(const std::vector<Runtime>& runtimes, std::size_t runtime) {
  const auto at = std::ranges::find(runtimes, runtimes[runtime].base, &Runtime::name);
  return at == runtimes.end() ? runtime : static_cast<std::size_t>(at - runtimes.begin());
}

void add_device_knobs(const std::vector<Device>& devices, std::vector<Knob>& knobs) {
  for (std::size_t d = 0; d < devices.size(); ++d)
    for (const auto& [name, curve] : kDeviceCurves) {
      if (highest(devices[d].*curve) <= 0) continue;
      Knob k;
      k.device = true, k.owner = d, k.name = name, k.start = 1, k.low = 0.4, k.high = 1.6;
      k.of_device = [curve = curve](const Device& x) { return highest(x.*curve); };
      k.set_device = [curve = curve](Device& x, double v) { scale(x.*curve, v); };
      knobs.push_back(k);
    }
  for (std::size_t d = 0; d < devices.size(); ++d) {
    if (devices[d].fa2_rate >= 1) continue;
    Knob k;
    k.device = true, k.owner = d, k.name = "fa2_rate", k.start = 1, k.low = 0.5, k.high = 1.6;
    k.of_device = [](const Device& x) { return x.fa2_rate; };
    k.set_device = [](Device& x, double v) { x.fa2_rate = std::min(1.0, x.fa2_rate * v); };
    knobs.push_back(k);
  }
}

void add_runtime_knobs(const std::vector<Runtime>& runtimes, std::vector<Knob>& knobs) {
  for (std::size_t r = 0; r < runtimes.size(); ++r)
    for (const RuntimeMember& m : kRuntimeMembers) {
      Knob k;
      k.owner = r, k.name = m.name, k.low = m.low, k.high = m.high, k.share = m.low == 0;
      k.member = m.member, k.seconds = m.seconds;
      const double value = k.of(runtimes[r]);
      // It does not have this at all: no such cost, or no overlap in its design.
      if (k.share ? value == 0 : value < m.low) continue;
      const std::size_t base = base_of(runtimes, r);
      if (base != r && value == k.of(runtimes[base])) continue;  // the base's knob moves it
      for (std::size_t other = 0; other < runtimes.size(); ++other)
        if (other != r && base_of(runtimes, other) == r && k.of(runtimes[other]) == value) k.also.push_back(other);
      k.start = std::clamp(value, m.low, m.high);
      knobs.push_back(k);
    }
}

}  // namespace

std::vector<Knob> make_knobs(const std::vector<Device>& devices, const std::vector<Runtime>& runtimes) {
  std::vector<Knob> knobs;
  add_device_knobs(devices, knobs);
  add_runtime_knobs(runtimes, knobs);
  return knobs;
}

}  // namespace llmplan
