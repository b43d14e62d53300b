#include "costmodel/fit.h"

#include <algorithm>
#include <cmath>

#include "costmodel/fit_knobs.h"

namespace llmplan {
namespace {

struct Row {
  std::string id;
  Setup setup;
  double measured = 0;
  std::size_t source = 0, device = 0, runtime = 0;
};

class Fitter {
 public:
  Fitter(const std::vector<Case>& cases, const ValidationData& data) {
    for (const Case& c : cases) {
      if (c.quality == "suspect" || c.quality == "memory") continue;
      auto setup = set_up(c, data);
      if (!std::holds_alternative<Setup>(setup)) continue;
      Row row{c.id, std::get<Setup>(std::move(setup)), 0, 0, 0, 0};
      const auto seconds = measured_step(c, data, row.setup);
      if (!std::holds_alternative<double>(seconds) || !(std::get<double>(seconds) > 0)) continue;
      if (!std::holds_alternative<Estimate>(estimate(row.setup))) continue;
      row.measured = std::get<double>(seconds);
      row.source = index(sources_, c.source);
      row.device = index(device_names_, c.device);
      row.runtime = index(runtime_names_, row.setup.runtime.name);
      if (row.device == devices_.size()) devices_.push_back(row.setup.cluster.device);
      if (row.runtime == runtimes_.size()) runtimes_.push_back(row.setup.runtime);
      rows_.push_back(std::move(row));
    }
    knobs_ = make_knobs(devices_, runtimes_);
    for (const Knob& k : knobs_) {
      start_.push_back(k.start);
      std::vector<std::size_t>& touched = touched_.emplace_back();
      for (std::size_t i = 0; i < rows_.size(); ++i)
        if (touches(k, rows_[i])) touched.push_back(i);
    }
    find_sensitive();
  }

  Fit run(bool leave_one_out) {
    Fit out;
    const std::vector<double> start = start_;
    const std::vector<double> before = errors_of(start);
    std::vector<bool> all(rows_.size(), true);
    const std::vector<double> fitted = search(start, all);
    const std::vector<double> after = errors_of(fitted);

    std::vector<double> left_out(rows_.size(), 0);
    if (leave_one_out && sources_.size() > 1) {
      for (std::size_t s = 0; s < sources_.size(); ++s) {
        std::vector<bool> kept(rows_.size());
        for (std::size_t i = 0; i < rows_.size(); ++i) kept[i] = rows_[i].source != s;
        const std::vector<double> without = search(uninformed(fitted, kept), kept);
        const std::vector<double> e = errors_of(without);
        for (std::size_t i = 0; i < rows_.size(); ++i)
          if (!kept[i]) left_out[i] = e[i], out.left_out_rows.push_back({sources_[s], rows_[i].id, e[i]});
      }
    }

    for (std::size_t k = 0; k < knobs_.size(); ++k) {
      const Knob& knob = knobs_[k];
      if (!informed(k, all)) continue;
      Constant c{owner(knob), knob.device, knob.name, start[k], fitted[k], 0};
      if (knob.device) {  // the highest point of the curve says more than a factor
        c.before = knob.of_device(devices_[knob.owner]);
        c.after = std::min(1.0, c.before * fitted[k]);
      }
      c.rows = static_cast<std::int64_t>(touched_[k].size());
      out.constants.push_back(c);
    }
    for (std::size_t s = 0; s <= sources_.size(); ++s) {
      FitError e;
      e.source = s < sources_.size() ? sources_[s] : "all";
      for (std::size_t i = 0; i < rows_.size(); ++i) {
        if (s < sources_.size() && rows_[i].source != s) continue;
        ++e.n;
        e.before += std::abs(before[i]), e.after += std::abs(after[i]), e.left_out += std::abs(left_out[i]);
        e.bias_after += after[i], e.bias_left_out += left_out[i];
      }
      if (e.n == 0) continue;
      for (double* x : {&e.before, &e.after, &e.left_out, &e.bias_after, &e.bias_left_out}) *x /= static_cast<double>(e.n);
      out.errors.push_back(e);
    }
    const Profiles now = set(fitted);
    for (std::size_t i = 0; i < now.devices.size(); ++i) out.devices[device_names_[i]] = now.devices[i];
    for (std::size_t i = 0; i < now.runtimes.size(); ++i) out.runtimes[runtime_names_[i]] = now.runtimes[i];
    return out;
  }

 private:
  static std::size_t index(std::vector<std::string>& names, const std::string& name) {
    const auto at = std::ranges::find(names, name);
    if (at != names.end()) return static_cast<std::size_t>(at - names.begin());
    names.push_back(name);
    return names.size() - 1;
  }

  static bool touches(const Knob& k, const Row& r) {
    return (k.device ? r.device : r.runtime) == k.owner || (!k.device && std::ranges::count(k.also, r.runtime) > 0);
  }
  const std::string& owner(const Knob& k) const { return k.device ? device_names_[k.owner] : runtime_names_[k.owner]; }

  struct Profiles { std::vector<Device> devices; std::vector<Runtime> runtimes; };
  Profiles set(const std::vector<double>& values) const {
    Profiles now{devices_, runtimes_};
    for (std::size_t k = 0; k < knobs_.size(); ++k)
      if (!knobs_[k].device) move(now, k, values);
    for (std::size_t d = 0; d < devices_.size(); ++d) set_device(now, d, values);
    return now;
  }
  // A device's curves are scaled from where they started, a runtime's constants are what they are.
  void set_device(Profiles& now, std::size_t d, const std::vector<double>& values) const {
    now.devices[d] = devices_[d];
    for (std::size_t k = 0; k < knobs_.size(); ++k)
      if (knobs_[k].device && knobs_[k].owner == d) knobs_[k].set_device(now.devices[d], values[k]);
  }
  void move(Profiles& now, std::size_t k, const std::vector<double>& values) const {
    const Knob& knob = knobs_[k];
    if (knob.device) return set_device(now, knob.owner, values);
    knob.apply(now.runtimes[knob.owner], values[k]);
    for (const std::size_t other : knob.also) knob.apply(now.runtimes[other], values[k]);
  }

  // predicted/measured − 1
  static double error(Row& row, const Profiles& p) {
    row.setup.cluster.device = p.devices[row.device];
    row.setup.runtime = p.runtimes[row.runtime];
    const auto result = estimate(row.setup);
    const Estimate* e = std::get_if<Estimate>(&result);
    return e ? e->time.step.value / row.measured - 1 : 0;
  }
  std::vector<double> errors_of(const std::vector<double>& values) {
    const Profiles now = set(values);
    std::vector<double> e;
    for (Row& row : rows_) e.push_back(error(row, now));
    return e;
  }

  // |log|, rounded off near zero so that good rows do not fight over the last percent.
  static double loss(double error) {
    const double x = std::log(std::max(1e-3, 1 + error));
    return std::sqrt(x * x + 0.02 * 0.02) - 0.02;
  }
  double pull(std::size_t k, double value) const {
    const double move = knobs_[k].share ? value - start_[k] : std::log(value / start_[k]);
    // Devices stand on microbenchmarks, runtimes on little but these runs.
    return (knobs_[k].device ? 5e-4 : 5e-5) * move * move;
  }

  // Coordinate search: each constant in turn tries a step up and one down; steps shrink where neither helps.
  std::vector<double> search(std::vector<double> values, const std::vector<bool>& kept) {
    std::vector<double> weight(rows_.size(), 0), count(sources_.size(), 0);
    for (std::size_t i = 0; i < rows_.size(); ++i) count[rows_[i].source] += kept[i];
    double total = 0;
    for (double n : count) total += std::sqrt(n);
    for (std::size_t i = 0; i < rows_.size(); ++i)
      if (kept[i]) weight[i] = 1 / (std::sqrt(count[rows_[i].source]) * total);

    Profiles at = set(values);
    std::vector<double> losses(rows_.size(), 0);
    for (std::size_t i = 0; i < rows_.size(); ++i)
      if (kept[i]) losses[i] = loss(error(rows_[i], at));
    std::vector<double> step;
    for (const Knob& k : knobs_) step.push_back(k.share ? (k.high - k.low) * 0.2 : std::log(k.device ? 1.1 : k.seconds ? 8 : 1.5));

    for (int sweep = 0; sweep < kSweeps; ++sweep) {
      for (std::size_t k = 0; k < knobs_.size(); ++k) {
        if (step[k] < 1e-3 || !informed(k, kept)) continue;
        double now = pull(k, values[k]);
        for (std::size_t i : touched_[k]) now += kept[i] ? weight[i] * losses[i] : 0;
        bool moved = false;
        for (const double sign : {1.0, -1.0}) {
          const double old = values[k];
          const double next = std::clamp(knobs_[k].share ? old + sign * step[k] : old * std::exp(sign * step[k]),
                                         knobs_[k].low, knobs_[k].high);
          if (next == old) continue;
          values[k] = next;
          move(at, k, values);
          std::vector<double> trial;
          double then = pull(k, next);
          for (std::size_t i : touched_[k]) {
            trial.push_back(kept[i] ? loss(error(rows_[i], at)) : 0);
            then += kept[i] ? weight[i] * trial.back() : 0;
            if (then >= now) break;
          }
          if (then >= now) {
            values[k] = old;
            move(at, k, values);
            continue;
          }
          for (std::size_t j = 0; j < touched_[k].size(); ++j) losses[touched_[k][j]] = trial[j];
          moved = true;
          break;
        }
        step[k] *= moved ? 1.3 : 0.5;
      }
    }
    return values;
  }

  // Rows whose prediction moves at all when the constant moves by a lot.
  void find_sensitive() {
    const Profiles start = set(start_);
    for (std::size_t k = 0; k < knobs_.size(); ++k) {
      std::vector<double> far = start_;
      far[k] = knobs_[k].share ? (start_[k] > 0.5 * knobs_[k].high ? knobs_[k].low : knobs_[k].high)
                               : knobs_[k].device ? 0.7 : knobs_[k].high;
      Profiles there = start;
      move(there, k, far);
      std::vector<std::size_t> sensitive;
      for (std::size_t i : touched_[k]) {
        const double before = 1 + error(rows_[i], start), after = 1 + error(rows_[i], there);
        if (std::abs(after / before - 1) > 1e-3) sensitive.push_back(i);
      }
      touched_[k] = std::move(sensitive);
    }
  }
  bool informed(std::size_t k, const std::vector<bool>& kept) const {
    std::int64_t n = 0;
    for (std::size_t i : touched_[k]) n += kept[i];
    return n >= kFewestRows;
  }
  // The same constant of the runtime that this one is like, if that is informed; else `k`.
  std::size_t stand_in(std::size_t k, const std::vector<bool>& kept) const {
    if (knobs_[k].device) return k;
    for (std::size_t j = 0; j < knobs_.size(); ++j)
      if (!knobs_[j].device && j != k && knobs_[j].name == knobs_[k].name && informed(j, kept) &&
          runtime_names_[knobs_[j].owner] == runtimes_[knobs_[k].owner].like)
        return j;
    return k;
  }
  // Constants that the kept rows do not inform: those of the runtime that this one is like, else the median
  // elsewhere; a curve takes the height that it has elsewhere.
  std::vector<double> uninformed(std::vector<double> values, const std::vector<bool>& kept) const {
    for (std::size_t k = 0; k < knobs_.size(); ++k) {
      if (informed(k, kept)) continue;
      if (const std::size_t other = stand_in(k, kept); other != k) {
        values[k] = std::clamp(values[other], knobs_[k].low, knobs_[k].high);
        continue;
      }
      std::vector<double> others;
      for (std::size_t j = 0; j < knobs_.size(); ++j) {
        if (knobs_[j].name != knobs_[k].name || j == k || !informed(j, kept)) continue;
        const double height = knobs_[j].device ? knobs_[j].of_device(devices_[knobs_[j].owner]) : 1;
        others.push_back(values[j] * height);
      }
      if (others.empty()) continue;
      std::ranges::sort(others);
      const double height = knobs_[k].device ? knobs_[k].of_device(devices_[knobs_[k].owner]) : 1;
      values[k] = std::clamp(others[others.size() / 2] / height, knobs_[k].low, knobs_[k].high);
    }
    return values;
  }

  static constexpr int kSweeps = 24;
  static constexpr std::int64_t kFewestRows = 4;  // fewer would serve single rows
  std::vector<Row> rows_;
  std::vector<std::string> sources_, device_names_, runtime_names_;
  std::vector<Device> devices_;
  std::vector<Runtime> runtimes_;
  std::vector<Knob> knobs_;
  std::vector<double> start_;
  std::vector<std::vector<std::size_t>> touched_;  // by knob: the rows that it moves
};

}  // namespace

Fit fit(const std::vector<Case>& cases, const ValidationData& data, bool leave_one_out) {
  return Fitter(cases, data).run(leave_one_out);
}

}  // namespace llmplan
