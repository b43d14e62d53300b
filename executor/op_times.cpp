#include "executor/op_times.h"

#include <fmt/format.h>

#include <algorithm>

#include "executor/statistics.h"
#include "planner/simulate.h"
#include "planner/trace.h"

namespace llmplan {

OpTimes::OpTimes(const Plan& plan, const Ranks& ranks) {
  const auto& programs = ranks.programs().programs;
  for (const Program& p : programs) {
    auto& index = kind_of_instr_.emplace_back();
    for (const Instr& in : p.instrs) {
      std::string kind(kind_of(in.op));
      auto found = std::find(kinds_.begin(), kinds_.end(), kind);
      if (found == kinds_.end()) found = kinds_.insert(kinds_.end(), kind);
      index.push_back(static_cast<std::int16_t>(found - kinds_.begin()));
    }
    rank_of_stage_.push_back(static_cast<int>(p.stage * plan.strategy.tp * plan.strategy.dp));
  }
  auto model = time_model(plan);
  Simulation simulation = simulate(programs, *model);
  predicted_.assign(programs.size(), std::vector<double>(kinds_.size()));
  for (std::size_t s = 0; s < simulation.stages.size(); ++s)
    for (std::size_t i = 0; i < simulation.stages[s].size(); ++i)
      predicted_[s][static_cast<std::size_t>(kind_of_instr_[s][i])] +=
          (simulation.stages[s][i].finish - simulation.stages[s][i].start).value;
  measured_.assign(programs.size(), std::vector<std::vector<double>>(kinds_.size()));
}

void OpTimes::add(const Ranks& ranks) {
  if (ranks.timeline(0).empty()) return;  // this step was not timed
  std::vector<double> sum(kinds_.size());
  for (std::size_t s = 0; s < measured_.size(); ++s) {
    std::fill(sum.begin(), sum.end(), 0.0);
    const Timeline& t = ranks.timeline(rank_of_stage_[s]);
    for (std::size_t i = 0; i < t.size(); ++i) sum[static_cast<std::size_t>(kind_of_instr_[s][i])] += (t[i].finish - t[i].start).value;
    for (std::size_t k = 0; k < sum.size(); ++k) {
      auto& window = measured_[s][k];
      if (window.size() < kWindow) window.push_back(sum[k]);
      else window[next_ % kWindow] = sum[k];
    }
  }
  ++next_;
}

std::vector<OpKindTime> OpTimes::result() const {
  std::vector<OpKindTime> busiest;
  double most = -1;
  for (std::size_t s = 0; s < measured_.size(); ++s) {
    std::vector<OpKindTime> here;
    double busy = 0;
    for (std::size_t k = 0; k < kinds_.size(); ++k) {
      double measured = quantile(measured_[s][k], 0.5);
      if (predicted_[s][k] == 0 && measured == 0) continue;
      here.push_back({kinds_[k], {predicted_[s][k]}, {measured}});
      busy += measured;
    }
    if (busy <= most) continue;
    most = busy;
    busiest = std::move(here);
  }
  std::stable_sort(busiest.begin(), busiest.end(), [](auto& a, auto& b) { return a.measured > b.measured; });
  return busiest;
}

std::string trace_json(const Ranks& ranks) {
  const auto& programs = ranks.programs().programs;
  const int per_stage = ranks.size() / static_cast<int>(programs.size());
  std::vector<Track> tracks;
  for (int r = 0; r < ranks.size(); ++r)
    tracks.push_back({fmt::format("rank {}", r), &programs[static_cast<std::size_t>(r / per_stage)], &ranks.timeline(r)});
  return trace_json(tracks);
}

}  // namespace llmplan
