// Sums of priced ops: what both forms of the estimate are made of.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <optional>
#include <utility>

#include "costmodel/estimate.h"
#include "costmodel/group.h"

namespace llmplan {

inline constexpr std::size_t kAxes = 6, kKinds = 5;

// A sum of ops: seconds of computing, and what each kind of collective adds.
struct Cost {
  double compute = 0, comm = 0;
  struct Sum { double seconds = 0, bytes = 0, count = 0; };
  std::array<std::array<Sum, kKinds>, kAxes> collectives{};

  void add(const Cost& other, double times) {
    compute += other.compute * times;
    comm += other.comm * times;
    if (other.comm == 0) return;
    for (std::size_t a = 0; a < kAxes; ++a)
      for (std::size_t k = 0; k < kKinds; ++k) {
        const Sum& from = other.collectives[a][k];
        if (from.count == 0) continue;
        Sum& to = collectives[a][k];
        to.seconds += from.seconds * times;
        to.bytes += from.bytes * times;
        to.count += from.count * times;
      }
  }
  void add(const Collective& c, double each, double times) {
    Sum& entry = collectives[static_cast<std::size_t>(c.axis)][static_cast<std::size_t>(c.kind)];
    entry.seconds += each * times;
    entry.bytes += static_cast<double>(c.size.value) * times;
    entry.count += times;
    comm += each * times;
  }
  double seconds(Axis axis) const {
    double sum = 0;
    for (const Sum& s : collectives[static_cast<std::size_t>(axis)]) sum += s.seconds;
    return sum;
  }
  double total() const { return compute + comm; }
};

// Prices ops and adds them up.
struct Pricer {
  const Cluster& cluster;
  const Strategy& strategy;
  int ranks, threads;  // of a CPU; as many ranks as there are cores, the rest take turns
  bool rings_only = false;  // Runtime::rings_only
  struct Priced { std::int64_t size = -1; Axis axis{}; Collective::Kind kind{}; double seconds = 0; };
  mutable std::array<Priced, 6> priced{};  // the latest
  mutable std::size_t next = 0;
  mutable std::array<std::optional<Group>, kAxes> groups{};
  mutable std::array<std::pair<Gemm, double>, 4> products{};  // the latest
  mutable std::size_t next_product = 0;

  Pricer(const Cluster& c, const Strategy& s) : cluster(c), strategy(s) {
    const std::int64_t cores = std::max(c.device.cores, 1);
    ranks = static_cast<int>(std::min(s.devices(), cores));
    threads = static_cast<int>(std::max<std::int64_t>(1, cores / s.devices()));
  }
  void operator()(Cost& sum, const Op& op, std::int64_t times = 1) const {
    const double n = static_cast<double>(times);
    if (const auto* c = std::get_if<Collective>(&op)) {
      sum.add(*c, collective_seconds(*c), n);
    } else {
      sum.compute += seconds(op) * n;
    }
  }
  // A head works in chunks of the same three products, and products are what costs most to price.
  double seconds(const Op& op) const {
    const auto* gemm = std::get_if<Gemm>(&op);
    if (!gemm) return op_time(op, cluster.device, ranks, threads).value;
    for (const auto& [known, seconds] : products)
      if (known == *gemm) return seconds;
    auto& slot = products[next_product++ % products.size()];
    return (slot = {*gemm, op_time(op, cluster.device, ranks, threads).value}).second;
  }
  // A layer repeats few collectives, and each costs more to price than to look up.
  double collective_seconds(const Collective& c) const {
    for (const Priced& p : priced)
      if (p.size == c.size.value && p.axis == c.axis && p.kind == c.kind) return p.seconds;
    Priced& slot = priced[next++ % priced.size()];
    return (slot = {c.size.value, c.axis, c.kind, collective_time(c)}).seconds;
  }
  double collective_time(const Collective& c) const {
    std::optional<Group>& group = groups[static_cast<std::size_t>(c.axis)];
    if (!group) group = group_of(c.axis, cluster, strategy);
    return group_seconds(c.kind, static_cast<double>(c.size.value), *group, cluster, rings_only);
  }
  // Kernels that only move bytes, whatever they are called.
  double pointwise(double bytes) const {
    const Device& d = cluster.device;
    const double rate = d.memory_bandwidth.value * d.memory_efficiency.at(bytes);
    const double alone = rate > 0 ? bytes / rate : 0;
    return d.cpu ? alone / threads : alone;
  }
};

}  // namespace llmplan
