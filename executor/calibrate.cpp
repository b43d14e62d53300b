#include "executor/calibrate.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <map>
#include <random>
#include <span>
#include <unordered_map>

#include "costmodel/error.h"
#include "costmodel/estimate.h"
#include "executor/calibrate_pairs.h"
#include "executor/cpu/kernels.h"
#include "executor/ranks.h"
#include "executor/statistics.h"
#include "planner/build.h"

namespace llmplan {
namespace {

using Clock = std::chrono::steady_clock;
using std::int64_t;

double seconds_since(Clock::time_point t) { return std::chrono::duration<double>(Clock::now() - t).count(); }

// ---- What is run: two layers of models from 1M to 56M parameters and beyond, one at a time

using Sample = CalibrationSample;
// Most useful first: the first ones are the built-in tiny models at 512 tokens; then larger
// micro-batches, other sequence lengths and widths, between which times are interpolated.
constexpr Sample kSamples[] = {
    {256, 4, 2, 64, 704, 8192, 512, 1},   {512, 8, 4, 64, 1408, 32000, 512, 1}, {384, 6, 2, 64, 1024, 16384, 512, 1},
    {128, 4, 2, 32, 512, 320, 512, 1},    {256, 4, 2, 64, 704, 8192, 512, 8},   {128, 4, 2, 32, 512, 320, 512, 8},
    {768, 12, 12, 64, 2048, 4096, 512, 1}, {384, 6, 2, 64, 1024, 1024, 512, 4}, {256, 4, 2, 64, 704, 320, 128, 2},
    {512, 8, 4, 64, 1408, 1024, 512, 4},  {128, 4, 4, 32, 352, 320, 64, 1},     {256, 8, 8, 32, 1024, 1024, 2048, 1},
    {1024, 16, 8, 64, 2816, 1024, 256, 1},
};
// On GPUs: layers as of 1B and 8B models first, at the lengths that are trained most; those that do not fit are left out.
constexpr Sample kGpuSamples[] = {
    {2048, 32, 8, 64, 8192, 128256, 4096, 1},  {4096, 32, 8, 128, 14336, 128256, 4096, 1}, {2048, 32, 8, 64, 8192, 128256, 8192, 1},
    {4096, 32, 8, 128, 14336, 128256, 8192, 1}, {2048, 32, 8, 64, 8192, 128256, 4096, 4},  {4096, 32, 8, 128, 14336, 32000, 4096, 2},
    {1024, 16, 8, 64, 2816, 32000, 2048, 4},   {768, 12, 12, 64, 3072, 50304, 1024, 8},    {8192, 64, 8, 128, 28672, 32000, 4096, 1},
    {4096, 32, 32, 128, 11008, 32000, 2048, 2}, {256, 4, 2, 64, 704, 8192, 512, 8},
};

enum class Spread { alone, dp, tp, sp, pp };  // over all cores

Plan sample_plan(const Sample& s, const Cluster& local, Spread spread, int64_t ranks) {
  Plan p;
  ModelConfig& m = p.model;
  m.name = "calibration";
  m.hidden_size = s.hidden, m.num_attention_heads = s.heads, m.num_key_value_heads = s.kv_heads, m.head_dim = s.head_dim;
  m.intermediate_size = s.ffn, m.vocab_size = s.vocab, m.max_position_embeddings = s.seq;
  m.num_hidden_layers = spread == Spread::pp ? std::max<int64_t>(2, ranks) : 2;
  p.cluster = local;
  p.strategy.micro_batch = s.micro_batch;
  if (spread == Spread::dp) p.strategy.dp = ranks;
  if (spread == Spread::tp || spread == Spread::sp) p.strategy.tp = ranks;
  if (spread == Spread::pp) p.strategy.pp = ranks;
  p.strategy.sp = spread == Spread::sp;
  // Two micro-batches: the first writes gradients, the second adds to them.
  p.workload.seq = s.seq;
  p.workload.global_batch = 2 * s.micro_batch * p.strategy.dp;
  p.workload.precision = usual_precision(local.device);
  return p;
}

// ---- What is kept: the mean of all runs of an op, because means add up to the step and medians of skewed
// times do not. A run that took kOutlier times the median met something else on the machine.

constexpr double kOutlier = 3;

double robust_mean(const std::vector<double>& values) {
  const double most = kOutlier * quantile(values, 0.5);
  double sum = 0;
  for (double v : values) sum += std::min(v, most);
  return sum / static_cast<double>(values.size());
}

class Times {
 public:
  // One step's spans on all ranks, less what ops beside them cost.
  void add(const Plan& plan, const Ranks& ranks, const std::vector<Contention>& contention) {
    const int64_t per_stage = plan.strategy.tp * plan.strategy.dp, world = ranks.size();
    const Device& device = plan.cluster.device;
    const auto threads = static_cast<int>(std::max<int64_t>(1, device.cores / world));
    for (int r = 0; r < world; ++r) {
      const Program& p = ranks.programs().programs[static_cast<std::size_t>(r / per_stage)];
      const Timeline& t = ranks.timeline(r);
      InstrId previous = -1;
      for (InstrId i = 0; i < static_cast<InstrId>(t.size()); ++i) {
        const Instr& in = p.instrs[i];
        if (std::holds_alternative<Recv>(in.op)) continue;  // its Send says the same
        const double time = seconds_alone(p, t, i, contention);
        if (in.stream == Stream::compute) {
          // Between two ops the interpreter works; between an op and a transfer a rank may wait.
          if (previous >= 0 && in.waits.empty() && !is_transfer(in.op)) gaps_[static_cast<int>(world)].push_back((t[i].start - t[previous].finish).value);
          previous = i;
        }
        const bool transfer = is_transfer(in.op);
        if (!transfer && device.cpu && world > device.cores) continue;
        // Ranks of a machine share its cores, but every rank has a GPU of its own.
        const int busy = std::holds_alternative<Send>(in.op) ? 2 : transfer || device.cpu ? static_cast<int>(world) : 1;
        spans_[Key{in.op, busy, transfer || !device.cpu ? 1 : threads}].push_back(time);
      }
    }
  }

  // What an instruction costs beside its op. On a GPU most gaps of a timed step are the host's, which issues one op and
  // two events at a time; where it is ahead, as in the graph that training replays, the gap is the device's own.
  Seconds gap(int ranks, bool cpu) const {
    auto found = gaps_.find(ranks);
    return {found == gaps_.end() ? 0 : quantile(found->second, cpu ? 0.5 : 0.1)};
  }
  std::vector<MeasuredOp> result(bool cpu) const {
    std::map<int, double> gap;
    for (const auto& [ranks, gaps] : gaps_) gap[cpu ? ranks : 1] = this->gap(ranks, cpu).value;
    std::vector<MeasuredOp> out;
    for (const auto& [key, times] : spans_) {
      const double time = robust_mean(times) + (is_transfer(key.op) ? 0 : gap[key.ranks]);
      if (time > 0) out.push_back({key.op, key.ranks, key.threads, {time}});
    }
    // In an order that does not depend on hashes.
    std::sort(out.begin(), out.end(), [](const MeasuredOp& a, const MeasuredOp& b) {
      const auto key = [](const MeasuredOp& m) {
        return std::tuple(m.ranks, m.op.index(), flops(m.op).value, bytes_moved(m.op).value, hash_of(m.op));
      };
      return key(a) < key(b);
    });
    return out;
  }

 private:
  struct Key {
    Op op;
    int ranks, threads;
    bool operator==(const Key&) const = default;
  };
  struct KeyHash {
    std::size_t operator()(const Key& k) const { return hash_of(k.op) * 31 + static_cast<std::size_t>(k.ranks) * 7 + static_cast<std::size_t>(k.threads); }
  };
  std::unordered_map<Key, std::vector<double>, KeyHash> spans_;
  std::map<int, std::vector<double>> gaps_;  // by ranks
};

// Random tokens of the vocabulary: what they are does not change how long an op takes.
SampleSource random_tokens(int64_t vocab) {
  return [vocab](int64_t i, std::span<std::int32_t> ids, std::span<std::int32_t> targets) {
    std::minstd_rand rng(static_cast<unsigned>(i + 1));
    for (auto& id : ids) id = static_cast<std::int32_t>(rng() % static_cast<std::uint64_t>(vocab));
    for (auto& t : targets) t = static_cast<std::int32_t>(rng() % static_cast<std::uint64_t>(vocab));
  };
}

class Calibration {
 public:
  Calibration(const Cluster& local, const CalibrationOptions& options) : local_(local), options_(options) {
    local_.device.measured.clear(), local_.device.contention.clear();
    if (local_.device.cpu) local_.device.peak.clear();
  }

  Device run() { return local_.device.cpu ? on_cores() : on_gpus(); }

 private:
  Device on_gpus() {
    int pairs = 0;
    const int64_t n = local_.devices_per_node;
    for (const Sample& sample : samples(kGpuSamples)) {
      if (pairs < 2 && possible(sample_plan(sample, local_, Spread::dp, n)) && start_part(sample, "side by side"))
        measure_pairs(local_, sample, options_.stop, pairs_), ++pairs;
      measure(sample, Spread::alone, 1);
      if (n > 1)
        for (Spread s : {Spread::dp, Spread::tp, Spread::sp, Spread::pp}) measure(sample, s, s == Spread::pp ? 2 : n);
    }
    return device();
  }

  Device on_cores() {
    const int64_t cores = std::max(local_.device.cores, 1);
    std::vector<std::pair<Spread, int64_t>> spreads{{Spread::alone, 1}};
    if (cores > 1) {
      spreads.push_back({Spread::dp, cores});
      // Heads divide by the small powers of two only.
      const int64_t split = cores >= 4 && cores % 4 == 0 ? 2 : cores;
      if (split == 2) for (Spread s : {Spread::tp, Spread::pp, Spread::sp}) spreads.push_back({s, 2});
    }
    int n = 0;
    for (const Sample& sample : samples(kSamples)) {
      for (const auto& [spread, ranks] : spreads) measure(sample, spread, ranks);
      if (++n != 4) continue;
      // More ranks than cores take turns: what their collectives cost then, but no compute op.
      measure(kSamples[0], Spread::dp, 2 * cores);
      measure({256, 8, 8, 32, 704, 1024, 512, 1}, Spread::tp, 2 * cores);
    }
    return device();
  }

  std::span<const Sample> samples(std::span<const Sample> built_in) const {
    return options_.samples.empty() ? built_in : std::span(options_.samples);
  }

  // A few steps, at least three after the first, which pays for page faults and threads that start.
  void measure(const Sample& sample, Spread spread, int64_t ranks) {
    constexpr const char* names[] = {"alone", "dp", "tp", "tp with sp", "pp"};
    const Plan plan = sample_plan(sample, local_, spread, ranks);
    if (!possible(plan) || !start_part(sample, names[static_cast<int>(spread)])) return;
    Ranks ranks_of_plan(plan);
    ranks_of_plan.init(1);
    const SampleSource samples = random_tokens(sample.vocab);
    constexpr double kShare = 0.6;  // seconds per run, if its steps are short
    const auto begin = Clock::now();
    for (int64_t step = 1; step <= 4 || (step <= 12 && seconds_since(begin) < kShare); ++step) {
      check_stop();
      ranks_of_plan.step({step, 1e-4}, samples);
      if (step > 1) times_.add(plan, ranks_of_plan, pairs_.result());
    }
  }

  // Says what comes next; false when time is over.
  bool start_part(const Sample& sample, const char* spread) const {
    check_stop();
    const double spent = seconds_since(start_);
    if (spent > options_.seconds) return false;
    if (options_.progress)
      options_.progress(fmt::format("hidden {} vocab {} tokens {}x{} {}", sample.hidden, sample.vocab, sample.micro_batch,
                                    sample.seq, spread),
                        spent / options_.seconds);
    return true;
  }

  // A CPU's samples are small; a GPU's are not for every GPU.
  static bool possible(const Plan& plan) {
    if (!check(plan.model, plan.cluster, plan.workload, plan.strategy).constraint.empty()) return false;
    if (plan.cluster.device.cpu) return true;
    Bytes most{};
    for (const Layout& l : build(plan, Purpose::train).layouts) most = std::max(most, l.device_arena);
    return most + plan.cluster.device.reserve < plan.cluster.device.memory;
  }

  void check_stop() const {
    if (options_.stop && *options_.stop > 0)
      throw Error("E0602", Exit::rank_lost, "calibration was stopped", "nothing was written; run it again");
  }

  Device device() const {
    Device d = local_.device;
    d.contention = pairs_.result();
    d.measured = times_.result(d.cpu);
    if (!d.cpu) {
      // Peak and bandwidth stay what the profile says: MFU's denominators. What was measured speaks through `measured`.
      if (const Seconds gap = times_.gap(1, false); gap.value > 0) d.launch = gap;
      return d;
    }
    // Per core, from where every core was busy with one thread; on one core that is the only run.
    double gemm = 0, bandwidth = 0;
    for (const MeasuredOp& m : d.measured) {
      const double cores = std::min(m.ranks * m.threads, std::max(d.cores, 1));
      const double rate = m.ranks * flops(m.op).value / m.time.value / cores;
      if (std::holds_alternative<Gemm>(m.op)) gemm = std::max(gemm, rate);
      if (std::holds_alternative<AdamW>(m.op))
        bandwidth = std::max(bandwidth, m.ranks * static_cast<double>(bytes_moved(m.op).value) / m.time.value / cores);
    }
    if (gemm > 0) d.peak[DType::fp32] = {gemm};
    if (bandwidth > 0) d.memory_bandwidth = {bandwidth};
    d.name = fmt::format("local-cpu-{}", cpu::instruction_set());
    return d;
  }

  Cluster local_;
  const CalibrationOptions& options_;
  Clock::time_point start_ = Clock::now();
  Times times_;
  PairTimes pairs_;
};

}  // namespace

Device calibrate(const Cluster& local, const CalibrationOptions& options) { return Calibration(local, options).run(); }

}  // namespace llmplan
