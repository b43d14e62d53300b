// The best contiguous partition of layers into pipeline stages.
#include <algorithm>
#include <numeric>

#include "costmodel/block.h"
#include "costmodel/cost.h"
#include "costmodel/pipeline.h"
#include "costmodel/program_memory.h"
#include "planner/search.h"

namespace llmplan {
namespace {

using std::int64_t;

// Seconds of one micro-batch. All layers are alike; the first stage also has the embedding, the last the head.
struct StageTimes {
  StagePass layer, first, last;
  double extra(int64_t stage, int64_t stages, double StagePass::* pass) const {
    return (stage == 0 ? first.*pass : 0) + (stage + 1 == stages ? last.*pass : 0);
  }
};

StageTimes stage_times(const Shapes& s, const Cluster& c, const Strategy& st) {
  const Pricer price(c, st);
  const bool recomputed = st.recompute == Recompute::full && st.recompute_layers == 0;
  const auto total = [&](auto&& emit_all) {
    Cost sum;
    emit_all([&](const Op& op, int64_t times = 1) { price(sum, op, times); });
    return sum.total();
  };
  StageTimes t;
  t.layer.forward = total([&](auto emit) { block::layer_forward(s, false, emit); });
  t.layer.backward = total([&](auto emit) {
    if (recomputed) block::layer_recompute(s, emit);
    block::layer_backward(s, true, recomputed, emit);
  });
  for (auto [place, pass] : {std::pair{StagePlace{0, 2, 0}, &t.first}, {StagePlace{1, 2, 0}, &t.last}}) {
    pass->forward = total([&, place = place](auto emit) { block::stage_forward(s, place, true, emit); });
    pass->backward = total([&, place = place](auto emit) { block::stage_backward(s, place, true, emit); });
  }
  return t;
}

// The most layers with which a stage fits; memory grows with layers, so bisection finds it.
int64_t most_layers(const Shapes& s, const Cluster& c, const Strategy& st, int64_t stage, int64_t micro_batches,
                    int64_t most) {
  const auto fits = [&](int64_t layers) {
    const Memory m = program_memory(s, {stage, st.pp, layers}, st, c.device, micro_batches);
    return m.capacity.value <= 0 || m.peak <= m.capacity;
  };
  int64_t low = 0, high = most + 1;  // low fits or is 0, high does not fit or is one too many
  while (high - low > 1) {
    const int64_t middle = low + (high - low) / 2;
    (fits(middle) ? low : high) = middle;
  }
  return low;
}

// Identical jobs on machines with a head start: giving each layer to the stage that then ends earliest
// minimises the latest end (an exchange argument). Ties go to later stages. Empty if the stages have no room.
std::vector<int64_t> deal(const StageTimes& t, std::vector<int64_t> split, const std::vector<int64_t>& most, int64_t layers) {
  const int64_t stages = static_cast<int64_t>(split.size());
  const double layer = t.layer.forward + t.layer.backward;
  for (int64_t given = std::accumulate(split.begin(), split.end(), int64_t{0}); given < layers; ++given) {
    int64_t best = -1;
    double best_time = 0;
    for (int64_t i = stages - 1; i >= 0; --i) {
      if (split[i] >= most[i]) continue;
      const double time = t.extra(i, stages, &StagePass::forward) + t.extra(i, stages, &StagePass::backward) +
                          layer * static_cast<double>(split[i] + 1);
      if (best < 0 || time < best_time) best = i, best_time = time;
    }
    if (best < 0) return {};
    ++split[best];
  }
  return split;
}

// What a further micro-batch costs: GPipe's forward and backward waves each pass their own slowest stage.
double gpipe_period(const StageTimes& t, const std::vector<int64_t>& split) {
  double sum = 0;
  for (auto pass : {&StagePass::forward, &StagePass::backward}) {
    double slowest = 0;
    for (std::size_t i = 0; i < split.size(); ++i)
      slowest = std::max(slowest, t.extra(static_cast<int64_t>(i), static_cast<int64_t>(split.size()), pass) +
                                      t.layer.*pass * static_cast<double>(split[i]));
    sum += slowest;
  }
  return sum;
}

}  // namespace

std::vector<int64_t> balanced_split(const ModelConfig& m, const Cluster& c, const Workload& w, const Strategy& st) {
  if (!why_not_lowerable(m, w, st).empty()) return {};
  const Shapes s = shapes_of(m, c, w, st);
  const StageTimes times = stage_times(s, c, st);
  const int64_t stages = st.pp, layers = m.num_hidden_layers;
  const int64_t micro_batches = w.global_batch / (st.dp * st.micro_batch);
  std::vector<int64_t> most(static_cast<std::size_t>(stages)), split(most.size(), 1);
  for (int64_t i = 0; i < stages; ++i) {
    most[i] = most_layers(s, c, st, i, micro_batches, layers - stages + 1);
    if (most[i] < 1) return {};
  }
  std::vector<int64_t> best = deal(times, split, most, layers);
  if (st.schedule != Schedule::gpipe || best.empty()) return best;
  // The head works forward only, so under GPipe its stage may take more layers than its sum suggests.
  double best_period = gpipe_period(times, best);
  for (int64_t last = best.back() + 1; last <= std::min(most.back(), layers / stages + 1); ++last) {
    split.back() = last;
    std::vector<int64_t> room = most;
    room.back() = last;
    std::vector<int64_t> other = deal(times, split, room, layers);
    const double period = other.empty() ? best_period : gpipe_period(times, other);
    if (period < best_period) best = std::move(other), best_period = period;
  }
  return best;
}

}  // namespace llmplan
