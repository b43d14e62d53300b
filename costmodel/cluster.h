// Devices and how they are wired. Every number comes from a file in hardware_profiles/ with its source,
// or from a calibration of the machine at hand; none stands in C++.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "costmodel/op.h"
#include "costmodel/units.h"

namespace llmplan {

// A piecewise-linear curve y(x), x ascending, in log2(x); constant beyond its ends. {(1,v)} is a constant.
struct Curve {
  std::vector<std::pair<double, double>> points;
  double at(double x) const;
  bool operator==(const Curve&) const = default;
};

// What `calibrate` measured for ops of exactly these shapes, with `threads` threads per rank and all
// `ranks` ranks busy; the time model interpolates for other shapes.
struct MeasuredOp { Op op; int ranks, threads; Seconds time; bool operator==(const MeasuredOp&) const = default; };

struct Device {
  std::string name;
  bool cpu = false;
  int cores = 0;                            // CPUs: cores shared by all ranks of the machine; the rates
                                            // below are then those of one core
  Bytes memory{};                           // what the driver shows as total
  Bytes reserve{};                          // context, libraries: outside the arena
  std::map<DType, FlopsPerSecond> peak;     // dense; absent: unknown, MFU is n/a
  FlopsPerSecond vector_peak{};             // fp32 pointwise
  BytesPerSecond memory_bandwidth{};
  // Fraction of peak / bandwidth that is reached; fitted or calibrated, per device, never per row.
  Curve gemm_efficiency;                    // x: FLOPs of the GEMM
  Curve attention_efficiency;               // x: sequence length
  Curve memory_efficiency;                  // x: bytes moved
  Seconds launch{};                         // host cost per op
  int sms = 0;                              // GPUs: processors that share a GEMM's tiles; 0: not known
  BytesPerSecond host_bandwidth{};          // to host memory, one direction; 0: not known
  std::vector<MeasuredOp> measured;         // empty: not calibrated
  double price_per_hour = 0;                // 0: not stated
  bool operator==(const Device&) const = default;
};

struct Link {
  std::string name;                         // "NVLink 4", "InfiniBand NDR", "shared memory"
  BytesPerSecond bandwidth{};               // per device and direction
  Seconds latency{};
  Curve efficiency;                         // x: bytes of one message
  bool operator==(const Link&) const = default;
};

struct Cluster {
  std::string name;                         // "local", "8xh100-80g-sxm"
  std::int64_t nodes = 1, devices_per_node = 1;
  Device device;
  Link intra, inter;                        // inside a node; between nodes
  bool operator==(const Cluster&) const = default;

  std::int64_t devices() const { return nodes * devices_per_node; }
};

// What one of `ranks` ranks could reach, MFU's denominator; 0: not known. A CPU's ranks share its cores.
FlopsPerSecond peak_of_rank(const Cluster&, DType, std::int64_t ranks);

}  // namespace llmplan
