// What a fit may move: one number of a device or of a runtime each.
#pragma once

#include <cstddef>
#include <functional>
#include <string>
#include <vector>

#include "costmodel/cluster.h"
#include "costmodel/runtime.h"

namespace llmplan {

struct Knob {
  bool device = false;             // of devices[owner], else of runtimes[owner]
  std::size_t owner = 0;
  std::string name;
  double start = 0;                // of a device's curve a factor, 1; of a runtime its constant
  double low = 0, high = 0;
  bool share = false;              // 0..1: steps are added; else multiplied
  std::vector<std::size_t> also;   // runtimes that are derived from the owner and state no value of their own
  std::function<double(const Device&)> of_device;  // what is shown: the highest point of the curve
  std::function<void(Device&, double)> set_device;
  double Runtime::*member = nullptr;
  Seconds Runtime::*seconds = nullptr;

  void apply(Runtime& r, double value) const {
    if (member) r.*member = value;
    else (r.*seconds).value = value;
  }
  double of(const Runtime& r) const { return member ? r.*member : (r.*seconds).value; }
};

// Every knob of these profiles. Constants that a derived runtime (`base:`) shares with its base are the base's alone, and
// what a runtime states as absent (an overlap of 0) is no knob: the software does not do that.
std::vector<Knob> make_knobs(const std::vector<Device>&, const std::vector<Runtime>&);

}  // namespace llmplan
