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
  const double t = (std::log2(x) - std::log2(x0)) / (std::log2(x1) - std::log2(x0));
  return y0 + t * (y1 - y0);
}

void set_ports(Link& link, std::int64_t ports, std::int64_t devices_per_node) {
  if (ports <= 0 || devices_per_node <= 0) return;
  link.bandwidth = link.bandwidth * (static_cast<double>(ports) / static_cast<double>(devices_per_node));
  link.ports = static_cast<int>(ports);
}

FlopsPerSecond peak_of_rank(const Cluster& c, DType type, std::int64_t ranks) {
  const auto found = c.device.peak.find(type);
  if (found == c.device.peak.end()) return {};
  if (!c.device.cpu || c.device.cores <= 0) return found->second;
  return found->second * (static_cast<double>(c.nodes * c.device.cores) / static_cast<double>(ranks));
}

}  // namespace llmplan
