#include "costmodel/pipeline.h"

#include <algorithm>
#include <array>
#include <vector>

namespace llmplan {
namespace {

using std::int64_t;

// GPipe: all forwards, then all backwards in the order of the micro-batches. Both waves follow
//   end[s][i] = max(end[s][i−1], end[s∓1][i] + hop) + time[s],
// and since a stage's time is the same for every micro-batch, the wave's last end has a closed form: the slowest
// stage is passed micro_batches times, every other one once.
void gpipe(std::span<const StagePass> stages, int64_t m, double hop, std::span<double> ends) {
  const std::size_t n = stages.size();
  double sum = 0, slowest = 0;
  for (std::size_t s = 0; s < n; ++s) {
    sum += stages[s].forward + (s ? hop : 0);
    slowest = std::max(slowest, stages[s].forward);
  }
  // Backwards start at the last stage once its forwards have ended; by then all others have, too.
  sum += static_cast<double>(m - 1) * slowest;
  slowest = 0;
  for (std::size_t s = n; s-- > 0;) {
    sum += stages[s].backward + (s + 1 < n ? hop : 0);
    slowest = std::max(slowest, stages[s].backward);
    ends[s] = sum + static_cast<double>(m - 1) * slowest;
  }
}

// 1F1B by its recurrence. Stage s runs F_{j+w} and then B_j, with w = n−1−s forwards of lead, so "round" j
// ends with B_j everywhere. Its forwards need what the stage above did one round earlier: going from the last
// stage to the first, one value per stage is enough.
void one_f_one_b(std::span<const StagePass> stages, int64_t m, double hop, std::span<double> ends) {
  const int64_t n = static_cast<int64_t>(stages.size());
  std::array<double, 64> small;
  std::vector<double> large;
  if (n > static_cast<int64_t>(small.size())) large.resize(static_cast<std::size_t>(n));
  double* const sent = large.empty() ? small.data() : large.data();  // end of the stage's latest forward
  std::fill(ends.begin(), ends.end(), 0.0);                          // when the stage is free
  for (int64_t j = 1 - n; j < m; ++j) {
    double gradient = 0;
    for (int64_t s = n - 1; s >= 0; --s) {
      const StagePass& pass = stages[static_cast<std::size_t>(s)];
      double& now = ends[static_cast<std::size_t>(s)];
      const int64_t i = j + n - 1 - s;
      if (i >= 0 && i < m) {
        now = std::max(now, s > 0 ? sent[s - 1] + hop : 0.0) + pass.forward;
        sent[s] = now;
      }
      if (j < 0) continue;
      now = std::max(now, gradient) + pass.backward;
      gradient = now + hop;
    }
  }
}

// Stage-rounds up to which the recurrence is run as it is.
constexpr int64_t kExactRounds = 512;

}  // namespace

void pipeline_ends(Schedule schedule, std::span<const StagePass> stages, int64_t m, double hop,
                   std::span<double> ends) {
  const int64_t n = static_cast<int64_t>(stages.size());
  if (n == 1) {
    ends[0] = static_cast<double>(m) * (stages[0].forward + stages[0].backward);
    return;
  }
  if (schedule == Schedule::gpipe) return gpipe(stages, m, hop, ends);
  const int64_t settled = 3 * n;  // rounds after which each one takes as long as the one before
  if (n * m <= kExactRounds || m <= settled + n) return one_f_one_b(stages, m, hop, ends);
  one_f_one_b(stages, settled, hop, ends);
  const double before = *std::max_element(ends.begin(), ends.end());
  one_f_one_b(stages, settled + n, hop, ends);
  const double period = (*std::max_element(ends.begin(), ends.end()) - before) / static_cast<double>(n);
  // A stage that is slowest by little gets its neighbours to wait only late; no schedule beats its own work
  // between the first arrival of its input and the way back of its last gradient.
  double way = 0, bound = 0;
  for (const StagePass& stage : stages) {
    bound = std::max(bound, way + static_cast<double>(m) * (stage.forward + stage.backward));
    way += stage.forward + stage.backward + 2 * hop;
  }
  double last = 0;
  for (double& end : ends) {
    end += period * static_cast<double>(m - settled - n);
    last = std::max(last, end);
  }
  const double behind = std::max(0.0, bound - last);
  for (double& end : ends) end += behind;
}

int64_t in_flight(Schedule schedule, int64_t stage, int64_t stages, int64_t m) {
  return schedule == Schedule::gpipe ? m : std::min(stages - stage, m);
}

}  // namespace llmplan
