#include "costmodel/pipeline.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <vector>

namespace llmplan {
namespace {

using std::int64_t;

// GPipe: all forwards, then all backwards in the order of the micro-batches. Both waves follow
//   end[s][i] = max(end[s][i−1], end[s∓1][i] + hop) + time[s],
// and since a stage's time is the same for every micro-batch, the wave's last end has a closed form: the slowest
// stage is passed micro_batches times, every other one once. A stage that is `ready` late starts such a wave of its own.
void gpipe(std::span<const StagePass> stages, int64_t m, double hop, std::span<double> ends) {
  const std::size_t n = stages.size();
  double sum = 0, slowest = 0, late = 0, rest = 0;
  for (std::size_t s = n; s-- > 0;) {
    slowest = std::max(slowest, stages[s].forward);
    late = std::max(late, stages[s].ready + rest + static_cast<double>(m - 1) * slowest);
    rest += stages[s].forward + (s ? hop : 0);
  }
  // Backwards start at the last stage once its forwards have ended; by then all others have, too.
  sum = std::max(late, rest + static_cast<double>(m - 1) * slowest);
  slowest = 0;
  for (std::size_t s = n; s-- > 0;) {
    sum += stages[s].backward + (s + 1 < n ? hop : 0);
    slowest = std::max(slowest, stages[s].backward);
    ends[s] = sum + static_cast<double>(m - 1) * slowest;
  }
}

// What a round of 1F1B leaves behind: when each stage is free, and when its latest forward ended.
struct Rounds {
  explicit Rounds(std::size_t n) : stages(n) {
    if (n > kSmall) large.resize(3 * n);
    double* const all = large.empty() ? small.data() : large.data();
    sent = all, free_before = all + n, sent_before = all + 2 * n;
  }
  static constexpr std::size_t kSmall = 64;
  std::size_t stages;
  std::array<double, 3 * kSmall> small;
  std::vector<double> large;
  double *sent, *free_before, *sent_before;
};

// 1F1B by its recurrence. Stage s runs F_{j+w} and then B_j, with w = n−1−s forwards of lead, so "round" j
// ends with B_j everywhere. Its forwards need what the stage above did one round earlier: going from the last
// stage to the first, one value per stage is enough.
//
// A round is a linear map in (max, +): once some rounds have moved every value by the same time, equally many further
// ones do (Baccelli et al. 1992, §3.7: such maps end in a cycle), until the last forward has been sent. Those are skipped;
// the cycle is found by comparison with a round whose distance doubles (Brent 1980). False: none of the
// first `give_up` rounds closed one, and `ends` says nothing.
bool one_f_one_b(std::span<const StagePass> stages, int64_t m, double hop, std::span<double> ends, int64_t give_up) {
  const int64_t n = static_cast<int64_t>(stages.size());
  Rounds r(stages.size());
  std::fill(ends.begin(), ends.end(), 0.0);  // when the stage is free
  int64_t compared = 0, lap = 1;             // the round compared with, and for how many
  bool skipped = false;
  for (int64_t j = 1 - n; j < m; ++j) {
    double gradient = 0;
    for (int64_t s = std::min(n, n + j) - 1; s >= 0; --s) {  // filling, the stages behind have nothing yet
      const StagePass& pass = stages[static_cast<std::size_t>(s)];
      double& now = ends[static_cast<std::size_t>(s)];
      const int64_t i = j + n - 1 - s;  // the micro-batch whose forward pass this is
      if (i < m) {
        now = std::max(now, s > 0 ? r.sent[s - 1] + hop : 0.0) + pass.forward;
        if (i == 0) now = std::max(now, pass.ready);
        r.sent[s] = now;
      }
      if (j < 0) continue;
      now = std::max(now, gradient) + pass.backward;
      gradient = now + hop;
    }
    if (j < 0 || j + n >= m || skipped) continue;  // filling or draining
    if (j > 0) {
      const double step = ends[0] - r.free_before[0], slack = 1e-12 * ends[0];
      bool cycle = true;
      for (int64_t s = 0; s < n && cycle; ++s)
        cycle = std::abs(ends[static_cast<std::size_t>(s)] - r.free_before[s] - step) <= slack &&
                std::abs(r.sent[s] - r.sent_before[s] - step) <= slack;
      if (cycle) {
        const int64_t length = j - compared, cycles = (m - n - j) / length;  // m − n: the last round before draining
        for (int64_t s = 0; s < n; ++s) {
          ends[static_cast<std::size_t>(s)] += step * static_cast<double>(cycles);
          r.sent[s] += step * static_cast<double>(cycles);
        }
        j += cycles * length;
        skipped = true;
        continue;
      }
      if (j >= give_up) return false;
      if (j - compared < lap) continue;
      lap *= 2;
    }
    compared = j;
    std::copy(ends.begin(), ends.end(), r.free_before);
    std::copy(r.sent, r.sent + n, r.sent_before);
  }
  return true;
}
constexpr int64_t kNever = std::numeric_limits<int64_t>::max();

// Stage-rounds up to which the recurrence is run as it is.
constexpr int64_t kExactRounds = 512;

}  // namespace

void pipeline_ends(Schedule schedule, std::span<const StagePass> stages, int64_t m, double hop,
                   std::span<double> ends) {
  const int64_t n = static_cast<int64_t>(stages.size());
  if (n == 1) {
    const double late = std::max(0.0, stages[0].ready - stages[0].forward);
    ends[0] = late + static_cast<double>(m) * (stages[0].forward + stages[0].backward);
    return;
  }
  if (schedule == Schedule::gpipe) return gpipe(stages, m, hop, ends);
  const int64_t settled = 3 * n;  // rounds after which each one takes as long as the one before
  const bool exact = n * m <= kExactRounds || m <= settled + n;
  if (one_f_one_b(stages, m, hop, ends, exact ? kNever : settled)) return;
  one_f_one_b(stages, settled, hop, ends, kNever);
  const double before = *std::max_element(ends.begin(), ends.end());
  one_f_one_b(stages, settled + n, hop, ends, kNever);
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
