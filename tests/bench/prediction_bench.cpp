// Predicted beside measured step time on this machine.
//   prediction_bench [--calibrate SECONDS] [--steps N] [MODEL[:seq[:micro_batch[:batch]]][,dp=2][,tp=2][,pp=2]…]
// Without cases: the built-in tiny models at 512 tokens, and dp2, tp2 and pp2 of tiny-9m. With
// --calibrate the machine is measured first; otherwise the calibration of `llmplan calibrate` is used.
#include <fmt/format.h>

#include <chrono>
#include <map>
#include <random>
#include <sstream>

#include "costmodel/estimate.h"
#include "costmodel/profiles/profiles.h"
#include "executor/calibrate.h"
#include "executor/ranks.h"
#include "executor/statistics.h"
#include "planner/simulate.h"

namespace llmplan {
namespace {

Plan parse(const std::string& text, const Cluster& cluster) {
  std::stringstream parts(text);
  std::string part;
  std::getline(parts, part, ',');
  std::vector<std::string> words;
  std::stringstream colons(part);
  for (std::string w; std::getline(colons, w, ':');) words.push_back(w);
  const auto number = [&](std::size_t i, std::int64_t otherwise) { return words.size() > i ? std::stoll(words[i]) : otherwise; };
  Plan p;
  p.model = read_model(words.at(0));
  p.cluster = cluster;
  p.workload.precision = DType::fp32;
  p.workload.seq = number(1, 512);
  p.strategy.micro_batch = number(2, 1);
  p.workload.global_batch = number(3, 8);
  while (std::getline(parts, part, ',')) {
    const std::string key = part.substr(0, part.find('='));
    const std::int64_t value = part.find('=') == std::string::npos ? 1 : std::stoll(part.substr(part.find('=') + 1));
    if (key == "dp") p.strategy.dp = value;
    if (key == "tp") p.strategy.tp = value;
    if (key == "pp") p.strategy.pp = value;
    if (key == "zero") p.strategy.zero = static_cast<int>(value);
    if (key == "sp") p.strategy.sp = true;
    if (key == "full") p.strategy.recompute = Recompute::full;
    if (key == "gpipe") p.strategy.schedule = Schedule::gpipe;
  }
  return p;
}

struct Kind { double predicted = 0, measured = 0; };

void compare(const std::string& name, Plan plan, int steps, bool kinds) {
  predict(plan);
  Ranks ranks(plan);
  ranks.init(1);
  const SampleSource samples = [&](std::int64_t i, std::span<std::int32_t> ids, std::span<std::int32_t> targets) {
    std::minstd_rand rng(static_cast<unsigned>(i + 1));
    for (auto& x : ids) x = static_cast<std::int32_t>(rng() % static_cast<std::uint64_t>(plan.model.vocab_size));
    for (auto& x : targets) x = static_cast<std::int32_t>(rng() % static_cast<std::uint64_t>(plan.model.vocab_size));
  };
  const Simulation run = simulate(ranks.programs().programs, *time_model(plan));
  std::vector<double> times;
  std::map<std::string, Kind> by_kind;
  const Program& first = ranks.programs().programs[0];
  for (int s = 1; s <= steps + 1; ++s) {
    const double t = ranks.step({s, 1e-4}, samples).time.value;
    if (s == 1) continue;
    times.push_back(t);
    for (std::size_t i = 0; i < first.instrs.size(); ++i) {
      Kind& k = by_kind[std::string(kind_of(first.instrs[i].op))];
      k.measured += (ranks.timeline(0)[i].finish - ranks.timeline(0)[i].start).value / steps;
      k.predicted += (run.stages[0][i].finish - run.stages[0][i].start).value / steps;
    }
  }
  const double median = quantile(times, 0.5);
  fmt::print("{:<34} predicted {:8.2f} ms   measured {:8.2f} ms (p5 {:8.2f})   {:+6.1f} %\n", name, plan.prediction.step.value * 1e3,
             median * 1e3, quantile(times, 0.05) * 1e3, (plan.prediction.step.value / median - 1) * 100);
  if (kinds)
    for (const auto& [kind, k] : by_kind)
      fmt::print("    {:<22} {:9.3f} {:9.3f}  {:+6.1f} %  {:+5.1f} % of the step\n", kind, k.predicted * 1e3, k.measured * 1e3,
                 (k.predicted / k.measured - 1) * 100, (k.predicted - k.measured) / median * 100);
}

}  // namespace
}  // namespace llmplan

int main(int argc, char** argv) {
  using namespace llmplan;
  Cluster cluster = local_cluster();
  std::vector<std::string> cases;
  int steps = 10;
  bool kinds = false;
  for (int i = 1; i < argc; ++i) {
    const std::string arg = argv[i];
    if (arg == "--steps") steps = std::stoi(argv[++i]);
    else if (arg == "--kinds") kinds = true;
    else if (arg == "--calibrate") {
      CalibrationOptions o;
      o.seconds = std::stod(argv[++i]);
      o.progress = [](const std::string& part, double f) { fmt::print(stderr, "{:5.1f} %  {}\n", f * 100, part); };
      const auto start = std::chrono::steady_clock::now();
      cluster.device = calibrate(cluster, o);
      fmt::print("calibrated in {:.1f} s: {} ops, peak {:.1f} GFLOP/s and {:.1f} GB/s per core\n",
                 std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count(), cluster.device.measured.size(),
                 cluster.device.peak[DType::fp32].value / 1e9, cluster.device.memory_bandwidth.value / 1e9);
    } else cases.push_back(arg);
  }
  if (cases.empty())
    cases = {"tiny-9m", "tiny-25m", "tiny-56m", "tiny-9m,dp=2", "tiny-9m,tp=2", "tiny-9m,pp=2"};
  for (const std::string& c : cases) compare(c, parse(c, cluster), steps, kinds);
}
