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

// What `calibrate` measured of ops that run side by side on a GPU: one of this class takes `slowdown` times as long as
// alone while one of the other class runs beside it.
struct Contention { OpClass work, beside; double slowdown; bool operator==(const Contention&) const = default; };

double slowdown(const std::vector<Contention>&, OpClass work, OpClass beside);  // 1 for a pair that is not there

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
  double fa2_rate = 1;                      // speed of FlashAttention-2's kernels, which use what an A100 has,
                                            // × that of kernels made for this device
  Curve memory_efficiency;                  // x: bytes moved
  Seconds launch{};                         // host cost per op
  int sms = 0;                              // GPUs: processors that share a GEMM's tiles; 0: not known
  BytesPerSecond host_bandwidth{};          // to host memory, one direction; 0: not known
  std::vector<MeasuredOp> measured;         // empty: not calibrated
  std::vector<Contention> contention;       // of GPUs; a pair that is not here: as if alone
  double price_per_hour = 0;                // 0: not stated
  bool operator==(const Device&) const = default;
};

struct Link {
  std::string name;                         // "NVLink 4", "InfiniBand NDR", "shared memory"
  BytesPerSecond bandwidth{};               // per device and direction, all devices at once
  Seconds latency{};                        // of one hop
  Curve efficiency;                         // x: bytes of one message: of n ranks' collective, an n-th
  // What follows is 0 where it is not known or does not apply.
  Seconds setup{};                          // of one collective, whatever its size
  double reduces_in_switch = 0;             // rate of reductions in the switch (NVLS), × that of rings
  int peers = 0;                            // a mesh: bandwidth is the sum of links to this many peers
  int ports = 0;                            // of a whole node, shared by its devices; 0: one for each device
  bool peer_stores = false;                 // devices write into each other's memory through it, as kernels do
                                            // that overlap a matrix product with its own communication
  bool operator==(const Link&) const = default;
};

// A level of the wiring beside the node and the whole cluster: cards under one bridge or socket, nodes
// in one NVLink domain, nodes under one leaf switch.
inline constexpr std::size_t kMaxTiers = 8;  // of a cluster, its nodes and the whole included
struct Tier {
  std::int64_t devices = 1;                 // that reach each other without leaving it
  Link link;
  bool operator==(const Tier&) const = default;
};

// Nodes of one type in a cluster that mixes types.
struct Part {
  std::int64_t nodes = 1;
  Device device;
  Link intra;
  bool operator==(const Part&) const = default;
};

struct Cluster {
  std::string name;                         // "local", "8xh100-80g-sxm"
  std::int64_t nodes = 1, devices_per_node = 1;
  Device device;
  Link intra, inter;                        // inside a node; across the whole cluster
  std::vector<Tier> tiers;                  // what else there is, by devices, ascending
  // Several types of nodes, in the order in which ranks fill them; `device` and `intra` are then the first one's.
  // Empty: all nodes are alike.
  std::vector<Part> parts;
  bool operator==(const Cluster&) const = default;

  std::int64_t devices() const { return nodes * devices_per_node; }
};

// Calls f(devices, link) for every level of the wiring, innermost first; the last one spans the cluster.
template <class F>
void for_each_tier(const Cluster& c, F f) {
  std::size_t t = 0;
  for (; t < c.tiers.size() && c.tiers[t].devices < c.devices_per_node; ++t) f(c.tiers[t].devices, c.tiers[t].link);
  f(c.devices_per_node, c.intra);
  if (c.nodes == 1) return;
  for (; t < c.tiers.size() && c.tiers[t].devices < c.devices(); ++t)
    if (c.tiers[t].devices > c.devices_per_node) f(c.tiers[t].devices, c.tiers[t].link);
  if (t < c.tiers.size()) f(c.devices(), c.tiers[t].link);  // the tier holds all of this cluster
  else f(c.devices(), c.inter);
}

// The part of a mixed cluster that holds this device, counted from 0 in the order of ranks.
std::size_t part_of(const Cluster&, std::int64_t device);
// A cluster of the same shape whose nodes are all like those of one part.
Cluster like_part(const Cluster&, std::size_t part);

// Gives a whole node `ports` ports of the link, which its devices share; 0 leaves one to each.
void set_ports(Link&, std::int64_t ports, std::int64_t devices_per_node);

// What one would train in here: fp32 on a CPU, else bf16, or fp16 where the device computes no bf16 (V100, T4).
DType usual_precision(const Device&);

// What one of `ranks` ranks could reach, MFU's denominator; 0: not known. A CPU's ranks share its cores.
FlopsPerSecond peak_of_rank(const Cluster&, DType, std::int64_t ranks);

}  // namespace llmplan
