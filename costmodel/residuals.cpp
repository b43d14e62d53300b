#include "costmodel/residuals.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <map>

namespace llmplan {
namespace {

// Nearest runs that an interval rests on, and at most so many of one source: runs of one source share their
// machine and their habits, so a hundred of them say less than ten of each of ten.
constexpr std::size_t kNearest = 60, kPerSource = 20;
// So many of the same software are enough to ask no other.
constexpr std::size_t kEnough = 20;

std::string number_text(double n) {
  char text[32];
  if (n >= 1e6) std::snprintf(text, sizeof text, "%.3g %s", n >= 1e12 ? n / 1e12 : n >= 1e9 ? n / 1e9 : n / 1e6,
                              n >= 1e12 ? "T" : n >= 1e9 ? "B" : "M");
  else std::snprintf(text, sizeof text, "%.0f", n);
  return text;
}

std::string precision_word(DType t) {
  return t == DType::fp8_e4m3 || t == DType::fp8_e5m2 ? "fp8" : std::string(name_of(t));
}

std::string offload_word(const Offload& o) {
  std::string word;
  for (const auto& [on, name] : {std::pair{o.optimizer, "optimizer"}, {o.gradients, "gradients"}, {o.weights, "weights"},
                                 {o.activations, "activations"}})
    if (on) word += (word.empty() ? "" : "+") + std::string(name);
  return word.empty() ? "none" : word;
}

constexpr std::size_t at(const char* name) {
  for (std::size_t k = 0; k < kWordCount; ++k)
    if (std::string_view(kWords[k].name) == name) return k;
  return kWordCount;
}
constexpr std::size_t kSoftware = at("software"), kRuntime = at("runtime"), kDevice = at("device");

}  // namespace

Features features_of(const ModelConfig& m, const Cluster& c, const Workload& w, const Strategy& s, const std::string& runtime,
                     const std::string& base) {
  Features f;
  const std::string& software = !base.empty() && runtime.starts_with(base + "-") ? base : runtime;
  f.words = {software, runtime, c.device.cpu ? "local-cpu" : c.device.name, precision_word(w.precision), std::string(name_of(w.optimizer.kind)),
             std::string(name_of(s.recompute)), std::string(name_of(s.attention)),
             s.pp > 1 ? std::string(name_of(s.schedule)) : "none", std::to_string(s.zero), offload_word(s.offload)};
  const auto d = [](std::int64_t n) { return static_cast<double>(std::max<std::int64_t>(1, n)); };
  f.numbers = {d(parameters(m)), d(m.num_experts), d(sequence_length(m, w)), d(s.devices()), d(s.tp), d(s.pp), d(s.vpp),
               d(s.cp), d(s.ep), d(s.micro_batch)};
  return f;
}

Residuals::Residuals(std::vector<Residual> rows) : rows_(std::move(rows)) {
  for (const Residual& r : rows_) {
    vocabulary_.push_back(r.source);
    vocabulary_.insert(vocabulary_.end(), r.features.words.begin(), r.features.words.end());
  }
  std::ranges::sort(vocabulary_);
  vocabulary_.erase(std::unique(vocabulary_.begin(), vocabulary_.end()), vocabulary_.end());
  points_.reserve(rows_.size());
  for (const Residual& r : rows_) {
    Point& p = points_.emplace_back(point(r.features));
    p.source = word(r.source);
    p.time = static_cast<float>(std::abs(std::log1p(r.time_error)));
    p.memory = static_cast<float>(std::abs(std::log1p(r.memory_error)));
  }
}

int Residuals::word(const std::string& text) const {
  const auto found = std::ranges::lower_bound(vocabulary_, text);
  return found != vocabulary_.end() && *found == text ? static_cast<int>(found - vocabulary_.begin()) : -1;
}

Residuals::Point Residuals::point(const Features& f) const {
  Point p;
  for (std::size_t k = 0; k < kWordCount; ++k) p.words[k] = word(f.words[k]);
  for (std::size_t k = 0; k < kNumberCount; ++k) p.logs[k] = static_cast<float>(std::log2(std::max(1.0, f.numbers[k])));
  return p;
}

Residuals::Interval Residuals::interval(const Features& f, Metric metric, const std::string& without) const {
  const Point q = point(f);
  const int left_out = without.empty() ? -1 : word(without), own = word(kOwnSource);
  // llmplan's program is its own: other software's errors say nothing about it, nor its about theirs.
  const bool asks_own = f.words[kSoftware] == kOwnSource;
  struct Near { float distance, error; const Point* p; };
  std::vector<Near> near;
  near.reserve(points_.size());
  for (const Point& p : points_) {
    const float error = metric == Metric::time ? p.time : p.memory;
    if (std::isnan(error) || p.source == left_out || (p.source == own) != asks_own) continue;
    if (asks_own && p.words[kDevice] != q.words[kDevice]) continue;
    float distance = 0;
    for (std::size_t k = 0; k < kWordCount; ++k)
      if (p.words[k] != q.words[k]) distance += static_cast<float>(kWords[k].weight);
    for (std::size_t k = 0; k < kNumberCount; ++k) distance += static_cast<float>(kNumbers[k].weight) * std::abs(p.logs[k] - q.logs[k]);
    near.push_back({distance, error, &p});
  }
  Interval result;
  result.outside = outside(f, q, metric, left_out);
  if (near.empty()) return result;
  std::ranges::stable_sort(near, {}, &Near::distance);
  std::vector<float> errors;
  std::map<int, std::size_t> taken;
  for (const bool same : {true, false}) {
    if (!same && errors.size() >= kEnough) break;
    for (const Near& n : near) {
      if (errors.size() >= kNearest) break;
      if ((n.p->words[kSoftware] == q.words[kSoftware]) != same || taken[n.p->source] >= kPerSource) continue;
      ++taken[n.p->source];
      errors.push_back(n.error);
      result.same_software = same;
    }
  }
  std::ranges::sort(errors);
  // Split conformal prediction (Vovk et al. 2005): the ⌈(n+1)·level⌉-th smallest of n errors. Of fewer than
  // four there is no such one: the largest, and half as much again.
  const auto n = errors.size();
  const auto rank = static_cast<std::size_t>(std::ceil(static_cast<double>(n + 1) * kLevel));
  const double width = rank <= n ? errors[rank - 1] : 1.5 * errors.back();
  result.relative = std::expm1(width);
  result.rows = static_cast<std::int64_t>(n);
  result.sources = static_cast<std::int64_t>(taken.size());
  return result;
}

std::vector<std::string> Residuals::outside(const Features& f, const Point& q, Metric metric, int without) const {
  const auto counts = [&](const Point& p) {
    return p.source != without && !std::isnan(metric == Metric::time ? p.time : p.memory);
  };
  const std::string& software = f.words[kSoftware];
  std::vector<const Point*> same;
  for (const Point& p : points_)
    if (counts(p) && p.words[kSoftware] == q.words[kSoftware]) same.push_back(&p);
  if (same.empty()) return {"no validated run of " + software};

  std::vector<std::string> found;
  for (std::size_t k = 0; k < kWordCount; ++k) {
    if (k == kSoftware || k == kRuntime || std::ranges::any_of(same, [&](const Point* p) { return p->words[k] == q.words[k]; })) continue;
    found.push_back("no validated run of " + software + (k == kDevice ? " on " : std::string(" with ") + kWords[k].name + " ") + f.words[k]);
  }
  for (std::size_t k = 0; k < kNumberCount; ++k) {
    const auto [low, high] = std::ranges::minmax(same, {}, [&](const Point* p) { return p->logs[k]; });
    const float least = low->logs[k], most = high->logs[k], slack = 0.01f;
    if (q.logs[k] > most + slack)
      found.push_back(number_text(f.numbers[k]) + " " + kNumbers[k].words + "; validated up to " + number_text(std::exp2(most)));
    else if (kNumbers[k].from_below && q.logs[k] < least - slack)
      found.push_back(number_text(f.numbers[k]) + " " + kNumbers[k].words + "; validated from " + number_text(std::exp2(least)));
  }
  return found;
}

std::vector<Residuals::Coverage> Residuals::coverage(Metric metric) const {
  std::vector<Coverage> out;
  for (std::size_t i = 0; i < rows_.size(); ++i) {
    const float error = metric == Metric::time ? points_[i].time : points_[i].memory;
    if (std::isnan(error) || rows_[i].source == kOwnSource) continue;
    auto found = std::ranges::find(out, rows_[i].source, &Coverage::source);
    if (found == out.end()) out.push_back({rows_[i].source, 0, 0, 0}), found = out.end() - 1;
    const Interval interval = this->interval(rows_[i].features, metric, rows_[i].source);
    ++found->n;
    found->covered += interval.known() && error <= std::log1p(interval.relative) * (1 + 1e-6);
    found->mean_relative += std::max(0.0, interval.relative);
  }
  for (Coverage& c : out) c.covered /= static_cast<double>(c.n), c.mean_relative /= static_cast<double>(c.n);
  return out;
}

}  // namespace llmplan
