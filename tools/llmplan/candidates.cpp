#include "tools/llmplan/candidates.h"

#include <algorithm>

namespace llmplan::cli {
namespace {

struct Split { std::int64_t dp = 1, tp = 1, pp = 1, ep = 1; int zero = 0; };

void add(std::vector<Strategy>& list, const Split& split, Recompute recompute = Recompute::none) {
  Strategy s;
  s.dp = split.dp;
  s.tp = split.tp;
  s.pp = split.pp;
  s.ep = split.ep;
  s.zero = split.zero;
  s.sp = split.tp > 1;
  s.recompute = recompute;
  if (std::find(list.begin(), list.end(), s) == list.end()) list.push_back(s);
}

std::vector<Strategy> on_cores(std::int64_t cores) {
  std::vector<Strategy> list;
  add(list, {});
  add(list, {}, Recompute::full);
  if (cores == 1) return list;
  add(list, {.dp = cores});
  add(list, {.dp = cores, .zero = 1});
  add(list, {.tp = cores});
  add(list, {.pp = cores});
  return list;
}

}  // namespace

std::vector<Strategy> candidates(const ModelConfig& model, const Cluster& cluster) {
  const std::int64_t devices = cluster.devices(), node = cluster.devices_per_node;
  if (cluster.device.cpu) return on_cores(devices);
  std::vector<Strategy> list;
  for (int zero = 0; zero <= (devices > 1 ? 3 : 0); ++zero) {
    add(list, {.dp = devices, .zero = zero});
    if (zero != 2) add(list, {.dp = devices, .zero = zero}, Recompute::full);
  }
  for (std::int64_t tp = 2; tp <= node && devices % tp == 0; tp *= 2)
    add(list, {.dp = devices / tp, .tp = tp, .zero = 1});
  // Pipelines of whole nodes: tensor parallel inside a node, stages between nodes.
  for (std::int64_t pp = 2; pp <= 16 && devices % (node * pp) == 0; pp *= 2)
    for (Recompute r : {Recompute::none, Recompute::full})
      add(list, {.dp = devices / (node * pp), .tp = node, .pp = pp, .zero = 1}, r);
  for (std::int64_t pp = 2; pp <= node && devices % pp == 0; pp *= 2)
    add(list, {.dp = devices / pp, .pp = pp, .zero = 1});
  for (std::int64_t ep = 2; ep <= std::min(devices, model.num_experts) && devices % ep == 0; ep *= 2)
    add(list, {.dp = devices, .ep = ep, .zero = 1});
  return list;
}

}  // namespace llmplan::cli
