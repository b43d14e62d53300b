#include "planner/search.h"

#include <algorithm>
#include <chrono>
#include <map>
#include <numeric>
#include <optional>

#include "planner/lower.h"
#include "planner/simulate.h"

namespace llmplan {
namespace {

using std::int64_t;

constexpr std::size_t kClosest = 8;
// Instructions that the simulated strategies may have in all: a few seconds. A pass of a layer through
// forward and backward is about 35.
constexpr int64_t kSimulatedInstructions = 4'000'000, kInstructionsPerLayer = 35;

constexpr double kMostRanks = 4096;  // on one machine's cores; check() has the real limit

std::vector<int64_t> divisors(int64_t n) {
  std::vector<int64_t> list;
  for (int64_t i = 1; i <= n / i; ++i)
    if (n % i == 0) {
      list.push_back(i);
      if (i != n / i) list.push_back(n / i);
    }
  std::sort(list.begin(), list.end());
  return list;
}

template <class T>
std::vector<T> either(const std::vector<T>& limits, std::vector<T> all) { return limits.empty() ? all : limits; }

bool may_be(const std::vector<int64_t>& limits, int64_t value) {
  return limits.empty() || std::find(limits.begin(), limits.end(), value) != limits.end();
}

// ---- The space

// Calls visit(strategy) for every combination, the plainest first, so that among equals the plainest wins.
// Settings that do nothing (ZeRO without dp, sp without tp, a schedule without stages) are visited once.
class Space {
 public:
  Space(const ModelConfig& m, const Cluster& c, const Workload& w, const Limits& limits, bool everything)
      : model_(m), cluster_(c), workload_(w), limits_(limits), everything_(everything) {}

  template <class Visit>
  void each(Visit&& visit) const {
    for (const int64_t ranks : rank_counts())
      for (const int64_t pp : divisors(ranks))
        for (const int64_t tp : divisors(ranks / pp))
          for (const int64_t cp : optional_axis(limits_.cp, ranks / pp / tp)) {
            Strategy s;
            s.pp = pp, s.tp = tp, s.cp = cp;
            s.dp = ranks / pp / tp / cp;
            if (!may_be(limits_.pp, pp) || !may_be(limits_.tp, tp) || !may_be(limits_.dp, s.dp)) continue;
            for (s.ep = 1; const int64_t ep : optional_axis(limits_.ep, model_.num_experts > 0 ? s.dp * cp : 1)) {
              s.ep = ep;
              options(s, visit);
            }
          }
  }

 private:
  // All devices of a cluster; of this machine's cores any number up to all, or more where the limits ask for it.
  std::vector<int64_t> rank_counts() const {
    if (!cluster_.device.cpu) return {cluster_.devices()};
    double most = 1;
    for (const auto* list : {&limits_.tp, &limits_.pp, &limits_.dp, &limits_.cp})
      if (!list->empty()) most *= static_cast<double>(*std::max_element(list->begin(), list->end()));
    std::vector<int64_t> counts(std::max(cluster_.devices(), static_cast<int64_t>(std::clamp(most, 1.0, kMostRanks))));
    std::iota(counts.begin(), counts.end(), 1);
    return counts;
  }

  // cp and ep: 1, unless more was asked for.
  std::vector<int64_t> optional_axis(const std::vector<int64_t>& limits, int64_t most) const {
    std::vector<int64_t> values;
    for (const int64_t n : divisors(most))
      if (limits.empty() ? n == 1 || everything_ : may_be(limits, n)) values.push_back(n);
    return values;
  }

  template <class Visit>
  void options(Strategy s, Visit&& visit) const {
    std::vector<int> zeros = either(limits_.zero, everything_ ? std::vector{0, 1, 2, 3} : std::vector{0, 1});
    if (s.dp * s.cp == 1) zeros = {*std::min_element(zeros.begin(), zeros.end())};
    std::vector<int> sps = either(limits_.sp, s.tp > 1 ? std::vector{0, 1} : std::vector{0});
    const int64_t per_rank = workload_.global_batch % s.dp == 0 ? workload_.global_batch / s.dp : 1;
    for (const int64_t micro_batch : either(limits_.micro_batch, divisors(per_rank)))
      for (const int zero : zeros)
        for (const int sp : sps) {
          s.micro_batch = micro_batch, s.zero = zero, s.sp = sp != 0;
          schedules(s, visit);
        }
  }

  template <class Visit>
  void schedules(Strategy s, Visit&& visit) const {
    const std::vector<Recompute> recomputes =
        either(limits_.recompute, everything_ ? std::vector{Recompute::none, Recompute::selective, Recompute::full}
                                              : std::vector{Recompute::none, Recompute::full});
    std::vector<Schedule> all{Schedule::one_f_one_b, Schedule::gpipe};
    if (everything_) all.insert(all.end(), {Schedule::interleaved, Schedule::zb_h1});
    std::vector<Schedule> list = either(limits_.schedule, all);
    if (s.pp == 1) list.resize(1);
    for (const Schedule schedule : list) {
      s.schedule = schedule;
      std::vector<int64_t> chunks{1};
      if (s.pp > 1 && schedule == Schedule::interleaved) {
        chunks = divisors(std::max<int64_t>(1, model_.num_hidden_layers / s.pp));
        if (chunks.size() > 1) chunks.erase(chunks.begin());  // a single chunk is left to check(), to be counted
      }
      for (const int64_t vpp : chunks) {
        s.vpp = vpp;
        if (!may_be(limits_.vpp, vpp)) continue;
        s.layers_per_stage = limits_.layers_per_stage;
        s.grad_bucket = limits_.grad_bucket;
        if (!s.layers_per_stage.empty() && static_cast<int64_t>(s.layers_per_stage.size()) != s.pp * vpp) continue;
        for (const Recompute recompute : recomputes) {
          s.recompute = recompute;
          visit(s);
        }
      }
    }
  }

  const ModelConfig& model_;
  const Cluster& cluster_;
  const Workload& workload_;
  const Limits& limits_;
  const bool everything_;
};

// ---- What is kept of it

bool better(const Estimate& a, const Estimate& b) {
  if (a.time.step != b.time.step) return a.time.step < b.time.step;
  return a.memory.peak < b.memory.peak;
}
bool nearer(const Estimate& a, const Estimate& b) {
  return a.memory.peak - a.memory.capacity < b.memory.peak - b.memory.capacity;
}

// The first `most` by `before`, in order; of equals the earlier stays.
void keep(std::vector<Estimate>& list, const Estimate& e, std::size_t most, bool (*before)(const Estimate&, const Estimate&)) {
  if (most == 0 || (list.size() == most && !before(e, list.back()))) return;
  if (list.size() == most) list.pop_back();
  list.insert(std::upper_bound(list.begin(), list.end(), e, before), e);
}

// Strategies that no other beats in both time and memory, by time; memory falls as time rises.
class ParetoFront {
 public:
  void add(const Estimate& e) {
    const double step = e.time.step.value;
    auto after = front_.upper_bound(step);
    if (after != front_.begin() && std::prev(after)->second.memory.peak <= e.memory.peak) return;
    front_.erase(step);
    after = front_.upper_bound(step);
    while (after != front_.end() && after->second.memory.peak >= e.memory.peak) after = front_.erase(after);
    front_.emplace(step, e);
  }
  std::vector<Estimate> take() {
    std::vector<Estimate> list;
    for (auto& [step, e] : front_) list.push_back(std::move(e));
    return list;
  }

 private:
  std::map<double, Estimate> front_;
};

class Search {
 public:
  Search(const ModelConfig& m, const Cluster& c, const Workload& w, const Limits& limits, const Runtime* runtime)
      : model_(m), cluster_(c), workload_(w), limits_(limits), runtime_(runtime) {}

  SearchResult run() {
    const auto start = std::chrono::steady_clock::now();
    const bool foreign = runtime_ && !runtime_->lowered;
    const bool everything = limits_.estimate_only || foreign || !why_not_runnable(model_).empty();
    Space(model_, cluster_, workload_, limits_, everything).each([&](const Strategy& s) { visit(s); });
    result_.pareto = front_.take();
    result_.proven_optimal = foreign || simulate_best();
    for (auto& [reason, count] : pruned_) result_.pruned.emplace_back(reason, count);
    std::stable_sort(result_.pruned.begin(), result_.pruned.end(),
                     [](const auto& a, const auto& b) { return a.second > b.second; });
    result_.seconds = {std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count()};
    return std::move(result_);
  }

 private:
  // One combination: its even split, its balanced one, and where only full recomputation fits, less of it.
  void visit(const Strategy& s) {
    Strategy best = s;
    bool fits = consider(s);
    if (legal_ && s.pp > 1 && s.vpp == 1 && s.layers_per_stage.empty()) {
      Strategy balanced = s;
      balanced.layers_per_stage = balanced_split(model_, cluster_, workload_, s);
      if (!balanced.layers_per_stage.empty() && balanced.layers_per_stage != layer_split(s, model_.num_hidden_layers) &&
          consider(balanced)) {
        fits = true;
        best = std::move(balanced);
      }
    }
    // Recomputation is the innermost loop, so `none` of the same combination came just before `full`.
    if (s.recompute == Recompute::none) plain_fits_ = fits;
    if (s.recompute == Recompute::full && fits && !plain_fits_ && limits_.recompute.empty()) recompute_less(best);
  }

  // Counts, prices and files one strategy; whether it fits.
  bool consider(const Strategy& s) {
    ++result_.space;
    const auto priced = runtime_ ? estimate(model_, cluster_, workload_, s, *runtime_)
                                 : estimate(model_, cluster_, workload_, s);
    if (const auto* broken = std::get_if<Infeasible>(&priced)) {
      legal_ = false;
      ++pruned_[broken->constraint];
      return false;
    }
    legal_ = true;
    ++result_.evaluated;
    return file(std::get<Estimate>(priced));
  }

  bool file(const Estimate& e) {
    if (!e.fits) {
      ++pruned_["memory"];
      keep(result_.closest, e, kClosest, nearer);
      return false;
    }
    ++result_.fitting;
    keep(result_.ranking, e, limits_.keep, better);
    front_.add(e);
    return true;
  }

  // Where all layers are recomputed, fewer may do. Time falls and memory rises with every layer that is kept,
  // so bisection finds the fewest that fit; those with more are dominated by it.
  void recompute_less(Strategy s) {
    const std::vector<int64_t> split = layer_split(s, model_.num_hidden_layers);
    const int64_t most = *std::max_element(split.begin(), split.end());
    int64_t low = 0, high = most;  // low does not fit (or is no recomputation at all), high fits
    std::optional<Estimate> best;
    while (high - low > 1) {
      s.recompute_layers = low + (high - low) / 2;
      const auto priced = runtime_ ? estimate(model_, cluster_, workload_, s, *runtime_)
                                   : estimate(model_, cluster_, workload_, s);
      ++result_.evaluated;
      const auto* e = std::get_if<Estimate>(&priced);
      if (e && e->fits) {
        high = s.recompute_layers;
        best = *e;
      } else {
        low = s.recompute_layers;
      }
    }
    result_.space += most - 1;  // recompute_layers 1 … most − 1
    if (low > 0) pruned_["memory"] += low;
    const int64_t dominated = most - 1 - high;
    if (dominated > 0) pruned_["dominated"] += dominated;
    if (best) file(*best);
  }

  // Simulates the head of the ranking and orders it by the result. False if even the first is too large for
  // that; a strategy that has no program stays where the closed form put it, and so does all behind it.
  bool simulate_best() {
    struct Simulated { Estimate estimate; Prediction prediction; };
    std::vector<Simulated> done;
    std::vector<Estimate>& ranking = result_.ranking;
    int64_t budget = kSimulatedInstructions;
    std::size_t next = 0;
    bool too_large = false;
    for (; next < ranking.size() && done.size() < static_cast<std::size_t>(std::max(0, limits_.simulate_top)); ++next) {
      Plan plan{model_, cluster_, workload_, ranking[next].strategy, {}, {}};
      if (!why_not_lowerable(plan).constraint.empty()) break;
      budget -= plan.micro_batches() * model_.num_hidden_layers * kInstructionsPerLayer;
      too_large = budget < 0;
      if (too_large) break;
      predict(plan);
      ++result_.simulated;
      Estimate& e = ranking[next];
      if (e.memory.capacity.value > 0 && plan.prediction.peak_memory > e.memory.capacity) {
        --result_.fitting;  // by the closed form it fitted barely
        ++pruned_["memory"];
        continue;
      }
      adopt(e, plan.prediction);
      done.push_back({e, plan.prediction});
    }
    std::stable_sort(done.begin(), done.end(),
                     [](const Simulated& a, const Simulated& b) { return better(a.estimate, b.estimate); });
    ranking.erase(ranking.begin(), ranking.begin() + static_cast<std::ptrdiff_t>(next));
    for (std::size_t i = 0; i < done.size(); ++i) {
      ranking.insert(ranking.begin() + static_cast<std::ptrdiff_t>(i), std::move(done[i].estimate));
      result_.predictions.push_back(done[i].prediction);
    }
    return !done.empty() || !too_large;
  }

  // The simulated time in place of the closed form's. What the simulation hides behind computing comes off the
  // exposed communication, what it adds is waiting.
  static void adopt(Estimate& e, const Prediction& p) {
    const double ratio = e.time.step.value / p.step.value;
    double gone = (e.time.step - p.step).value;
    if (gone < 0) e.time.bubble.value -= gone, gone = 0;
    for (Seconds* part : {&e.time.dp_comm, &e.time.tp_comm, &e.time.pp_comm, &e.time.bubble, &e.time.optimizer,
                          &e.time.compute}) {
      const double taken = std::min(gone, part->value);
      part->value -= taken;
      gone -= taken;
    }
    e.time.step = p.step;
    for (double* rate : {&e.tokens_per_s, &e.tokens_per_s_per_device, &e.tflops_per_device}) *rate *= ratio;
    for (double* share : {&e.mfu, &e.hfu})
      if (*share >= 0) *share *= ratio;
    if (e.days >= 0) e.days /= ratio;
  }

  const ModelConfig& model_;
  const Cluster& cluster_;
  const Workload& workload_;
  const Limits& limits_;
  const Runtime* const runtime_;
  SearchResult result_;
  std::map<std::string, int64_t> pruned_;
  ParetoFront front_;
  bool legal_ = false;       // the strategy last considered could be priced
  bool plain_fits_ = false;  // the combination last visited without recomputation fits
};

}  // namespace

SearchResult search(const ModelConfig& m, const Cluster& c, const Workload& w, const Limits& limits,
                    const Runtime* runtime) {
  return Search(m, c, w, limits, runtime).run();
}

}  // namespace llmplan
