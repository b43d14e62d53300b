#include "costmodel/cluster.h"

#include <cmath>

namespace llmplan {

double Curve::at(double x) const {
  if (points.empty()) return 1;
  if (!(x > points.front().first)) return points.front().second;
  if (x >= points.back().first) return points.back().second;
  std::size_t i = 1;
  while (points[i].first < x) ++i;
  const auto& [x0, y0] = points[i - 1];
  const auto& [x1, y1] = points[i];
  // Two logarithms, not four, and in float: a search asks this often, and no efficiency is known to seven digits.
  const double t = static_cast<double>(std::log2(static_cast<float>(x / x0)) / std::log2(static_cast<float>(x1 / x0)));
  return y0 + t * (y1 - y0);
}

void set_ports(Link& link, std::int64_t ports, std::int64_t devices_per_node) {
  if (ports <= 0 || devices_per_node <= 0) return;
  link.bandwidth = link.bandwidth * (static_cast<double>(ports) / static_cast<double>(devices_per_node));
  link.ports = static_cast<int>(ports);
}

DType usual_precision(const Device& d) {
  if (d.cpu) return DType::fp32;
  return d.peak.contains(DType::bf16) || !d.peak.contains(DType::fp16) ? DType::bf16 : DType::fp16;
}

double slowdown(const std::vector<Contention>& pairs, OpClass work, OpClass beside) {
  for (const Contention& c : pairs)
    if (c.work == work && c.beside == beside) return c.slowdown;
  return 1;
}

std::size_t part_of(const Cluster& c, std::int64_t device) {
  std::int64_t end = 0;
  for (std::size_t i = 0; i < c.parts.size(); ++i)
    if (device < (end += c.parts[i].nodes * c.devices_per_node)) return i;
  return c.parts.empty() ? 0 : c.parts.size() - 1;
}

Cluster like_part(const Cluster& c, std::size_t part) {
  Cluster one = c;
  one.device = c.parts[part].device;
  one.intra = c.parts[part].intra;
  one.parts.clear();
  return one;
}

FlopsPerSecond peak_of_rank(const Cluster& c, DType type, std::int64_t ranks) {
  if (!c.parts.empty()) {  // the mean over the devices; unknown if one of them is
    double sum = 0;
    for (const Part& part : c.parts) {
      const auto found = part.device.peak.find(type);
      if (found == part.device.peak.end()) return {};
      sum += found->second.value * static_cast<double>(part.nodes);
    }
    return {sum / static_cast<double>(c.nodes)};
  }
  const auto found = c.device.peak.find(type);
  if (found == c.device.peak.end()) return {};
  if (!c.device.cpu || c.device.cores <= 0) return found->second;
  return found->second * (static_cast<double>(c.nodes * c.device.cores) / static_cast<double>(ranks));
}

}  // namespace llmplan
