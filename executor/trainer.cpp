#include "executor/trainer.h"

#include <fmt/format.h>
#include <sys/statvfs.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <filesystem>

#include "costmodel/error.h"
#include "costmodel/estimate.h"
#include "executor/checkpoint.h"
#include "executor/cpu/kernels.h"
#include "executor/gpu.h"
#include "executor/learning_rate.h"
#include "executor/loader.h"
#include "executor/loss_scale.h"
#include "executor/memory.h"
#include "executor/metrics.h"
#include "executor/op_times.h"
#include "executor/ranks.h"
#include "executor/statistics.h"
#include "executor/transport.h"
#include "planner/plan_fields.h"

namespace llmplan {
namespace fs = std::filesystem;
namespace {

constexpr std::int64_t kTimedEvery = 16;  // steps; on GPUs, where timing each op slows a step down, and where timelines travel

double unix_seconds() {
  return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
}

void require_runnable(const Plan& plan, const RunOptions& options) {
  if (!plan.cluster.device.cpu && options.processes)
    throw Error("E0342", Exit::usage, "--processes is for ranks on cores, and the plan is for " + plan.cluster.name,
                "a process per GPU is started by mpirun: mpirun -n RANKS llmplan run PLAN");
  std::string why_not;
  if (!plan.cluster.device.cpu && gpus(&why_not).empty())
    throw Error("E0341", Exit::environment,
                fmt::format("the plan is for {}, and there is no GPU to run on: {}", plan.cluster.name, why_not),
                "plan for this machine's cores: llmplan tune MODEL --cluster local --precision fp32");
  if (options.steps < 1)
    throw Error("E0342", Exit::usage, fmt::format("{} steps are not a run", options.steps), "give --steps 1 or more");
  if (!(options.held_out >= 0 && options.held_out < 1))
    throw Error("E0342", Exit::usage, fmt::format("a held-out part of {} is not a fraction", options.held_out),
                "give a number from 0 up to, not including, 1");
}

// A directory for one run: locked, rid of what a killed run left half written, and either fresh or resumed.
class RunDirectory {
 public:
  RunDirectory(const RunOptions& options) : path_(options.out) {
    make_directory(path_);
    lock_.emplace(path_);
    std::error_code ignored;
    for (const std::string& folder : {path_, checkpoints(), path_ + "/hf"})
      for (auto& entry : fs::directory_iterator(folder, ignored))
        if (entry.path().extension() == ".tmp") fs::remove(entry.path(), ignored);
    resume_from_ = latest_checkpoint(checkpoints());
    if (options.resume) return;
    if (resume_from_ || fs::exists(path_ + "/metrics.jsonl", ignored))
      throw Error("E0506", Exit::environment, fmt::format("{} already holds a run", path_),
                  "continue it with --resume, or choose another directory with --out");
  }

  std::string checkpoints() const { return path_ + "/checkpoints"; }
  const std::optional<std::string>& resume_from() const { return resume_from_; }

  // Before hours of work: is there room for a checkpoint and the export?
  void require_space(std::int64_t parameters) const {
    struct statvfs s {};
    if (::statvfs(path_.c_str(), &s) != 0 || s.f_blocks == 0) return;
    const double free = static_cast<double>(s.f_bavail) * static_cast<double>(s.f_frsize);
    const double need = static_cast<double>(parameters) * 4 * (3 + 1);
    if (free < need)
      throw Error("E0502", Exit::environment,
                  fmt::format("the disk of {} has {:.1f} MiB free, a checkpoint and the exported weights need {:.1f} MiB", path_,
                              free / (1 << 20), need / (1 << 20)),
                  "free some space, or choose a directory on another disk with --out");
  }

 private:
  std::string path_;
  std::optional<DirectoryLock> lock_;
  std::optional<std::string> resume_from_;
};

Identity identity_of(const Plan& plan, std::int64_t seq, const Tokens& tokens, const RunOptions& options) {
  return {{"model", plan.model.name},
          {"sequence length", std::to_string(seq)},
          {"global batch", std::to_string(plan.workload.global_batch)},
          {"seed", std::to_string(plan.workload.seed)},
          {"tokens of data", std::to_string(tokens.size())},
          {"held-out part", fmt::format("{}", options.held_out)}};
}

// Every number that the updates follow.
Settings settings_of(const Plan& plan, const RunOptions& options) {
  Settings s{{"precision", std::string(name_of(plan.workload.precision))}, {"steps", std::to_string(options.steps)}};
  plan_file::for_each<Optimizer>([&](const auto& field) {
    const auto& value = plan.workload.optimizer.*field.member;
    if constexpr (std::is_same_v<std::decay_t<decltype(value)>, OptimizerKind>) s["optimizer"] = std::string(name_of(value));
    else s[field.key] = fmt::format("{}", value);
  });
  return s;
}

struct Rates { double tokens_per_s, tflops_per_device, mfu; };
Rates rates(const Plan& plan, std::int64_t tokens_per_step, double seconds) {
  double flops = step_flops(plan.model, plan.workload, plan.strategy).model_causal.value / seconds /
                 static_cast<double>(plan.strategy.devices());
  double peak = peak_of_rank(plan.cluster, plan.workload.precision, plan.strategy.devices()).value;
  return {static_cast<double>(tokens_per_step) / seconds, flops / 1e12, peak > 0 ? flops / peak : -1};
}

// What one rank, the largest, has of the process's peak: its arena and an equal share of the rest.
struct Usage { Bytes largest{}, sum{}, process{}; Bytes per_rank() const; int ranks = 1; };
Usage usage(const Ranks& ranks) {
  Usage u;
  u.ranks = ranks.transport() ? 1 : ranks.size();  // of this process
  for (int r = 0; r < ranks.size(); ++r) {
    u.sum += ranks.allocated_arena(r);
    u.largest = std::max(u.largest, ranks.allocated_arena(r));
  }
  u.process = ranks.memory();
  return u;
}
Bytes Usage::per_rank() const { return largest + std::max(process - sum, Bytes{}) / ranks; }

// A step that loss scaling skips is no failure, unless the scale cannot become smaller.
void require_finite(const StepMetrics& m, const std::string& checkpoint) {
  if (std::isfinite(m.loss) && (std::isfinite(m.grad_norm) || (m.skipped && m.loss_scale > kSmallestLossScale))) return;
  throw Error("E0701", Exit::non_finite,
              fmt::format("step {}: the {} is {}", m.step, std::isfinite(m.loss) ? "gradient norm" : "loss",
                          std::isfinite(m.loss) ? m.grad_norm : m.loss),
              fmt::format("nothing of this step was saved{}; try a lower learning rate, a longer warm-up or clipping",
                          checkpoint.empty() ? "" : ", and --resume continues from " + checkpoint));
}

}  // namespace

void tell_where(Error& e, std::int64_t step, const std::string& checkpoint) {
  e.message += fmt::format(", in step {}", step);
  e.hint += checkpoint.empty() ? "\nnothing was saved yet; --checkpoint-every N saves on the way"
                               : fmt::format("\nlast checkpoint: {}", checkpoint);
}

RunReport train(const Plan& plan, const RunOptions& options, const std::function<void(const StepMetrics&)>& on_step) {
  require_runnable(plan, options);
  const std::int64_t seq = sequence_length(plan.model, plan.workload), batch = plan.workload.global_batch;
  auto tokens = open_tokens(options.data, plan.model.vocab_size, plan.workload.documents);
  Loader loader(*tokens, seq, options.held_out, plan.workload.seed, plan.workload.documents);
  check_ids(*tokens);
  Transport* const others = options.transport;
  if (plan.cluster.device.cpu && !others) require_memory(plan);

  const bool first = !others || others->rank() == 0;
  std::optional<RunDirectory> directory;
  on_first(others, [&] {
    directory.emplace(options);
    directory->require_space(parameters(plan.model));
  });
  std::optional<Ranks> held;
  if (others) held.emplace(plan, options.stop, *others, options.local_rank, options.local_size);
  else held.emplace(plan, options.stop, options.processes ? Placement::processes : Placement::threads);
  Ranks& ranks = *held;
  const Identity identity = identity_of(plan, seq, *tokens, options);
  const Settings settings = settings_of(plan, options);
  Progress progress;
  std::string saved;
  if (first) saved = directory->resume_from().value_or("");
  if (others) saved = broadcast(*others, saved);
  if (!saved.empty()) {
    progress = load_checkpoint(saved, ranks, identity);
    if (first && options.on_warning)
      if (const std::string changed = changed_settings(saved, settings); !changed.empty())
        options.on_warning(fmt::format("this goes on with other settings than {} was trained with: {}", saved, changed));
  } else if (!options.init.empty()) {
    load_weights(options.init, ranks);
  } else {
    ranks.init(plan.workload.seed);
  }
  const std::string report_path = options.out + "/report.json";
  // The same answer everywhere: rank 0 asks, the largest value counts.
  auto agreed = [&](int value) { return others ? agree(*others, value) : value; };
  if (agreed(first && progress.step >= options.steps && fs::exists(report_path)) > 0)  // nothing is left to do
    return first ? report_from_json(read_file(report_path), report_path) : RunReport{};

  std::optional<MetricsLog> log;
  on_first(others, [&] { log.emplace(options.out + "/metrics.jsonl", progress.step); });
  OpTimes op_times(plan, ranks);
  std::vector<double> step_times;
  double last_loss = 0, held_out_loss = -1;
  auto evaluate = [&] {
    std::int64_t count = options.eval_batches * plan.strategy.micro_batch * plan.strategy.dp;
    return ranks.evaluate(options.eval_batches, [&](std::int64_t i, auto ids, auto targets) { loader.held_out(i, count, ids, targets); });
  };
  auto due = [](std::int64_t step, std::int64_t every) { return every > 0 && step % every == 0; };
  auto stopping = [&] { return agreed(options.stop && *options.stop > 0) > 0; };  // one that was told stops all

  bool stopped = false, is_saved = true;
  auto save = [&] {
    if (options.stop && *options.stop >= 2)
      throw Error("E0602", Exit::rank_lost, fmt::format("stopped at once, after step {}", progress.step),
                  "nothing was saved since the last checkpoint; --resume continues from there");
    save_checkpoint(options.out + "/checkpoints", ranks, progress, identity, settings);
    if (first) saved = latest_checkpoint(directory->checkpoints()).value_or("");
    is_saved = true;
  };
  while (progress.step < options.steps && !(stopped = stopping())) {
    StepMetrics m;
    m.step = progress.step + 1;
    // Steps that loss scaling skipped do not count for the schedule.
    const LossScaling scaling = ranks.loss_scaling();
    m.lr = learning_rate(plan.workload.optimizer, m.step - static_cast<std::int64_t>(scaling.skipped), options.steps);
    m.loss_scale = scaling.scale;
    const bool last = m.step == options.steps;
    const bool timed = (plan.cluster.device.cpu && !others) || last || m.step % kTimedEvery == 2;
    SampleSource samples = [&](std::int64_t i, auto ids, auto targets) { loader.train(progress.samples + i, ids, targets); };
    StepResult result;
    try {
      result = ranks.step({m.step, m.lr}, samples, timed);
    } catch (Error& e) {
      if (e.code == "E0601") tell_where(e, m.step, saved);
      throw;
    }
    progress = {m.step, progress.samples + batch};
    is_saved = false;
    if (timed) {
      ranks.collect_timelines(last && options.trace);
      if (first) op_times.add(ranks);
    }
    step_times.push_back(result.time.value);

    Rates r = rates(plan, batch * seq, result.time.value);
    m.time = unix_seconds();
    m.loss = last_loss = result.loss;
    m.grad_norm = result.grad_norm;
    m.skipped = result.skipped;
    m.tokens = progress.samples * seq;
    m.step_s = result.time.value;
    m.tokens_per_s = r.tokens_per_s;
    m.tflops_per_device = r.tflops_per_device;
    m.mfu = r.mfu;
    m.memory = usage(ranks).per_rank();
    if (std::isfinite(m.loss) && options.eval_batches > 0 && loader.has_held_out() && (last || due(m.step, options.eval_every)))
      m.held_out_loss = held_out_loss = evaluate();
    if (log) log->write(m);
    if (first && on_step) on_step(m);
    require_finite(m, saved);
    if (last || due(m.step, options.checkpoint_every) || stopping()) {
      save();
    }
  }
  if (!is_saved) save();

  RunReport report;
  report.stopped = stopped;
  report.plan_digest = plan.digest;
  report.predicted = plan.prediction;
  // The first step pays for what happens once: caches, threads that start.
  if (step_times.size() > 3) step_times.erase(step_times.begin());
  const double median = quantile(step_times, 0.5);
  const Usage u = usage(ranks);
  if (median > 0) {
    Rates r = rates(plan, batch * seq, median);
    report.measured = {{median}, r.tokens_per_s, r.tflops_per_device, r.mfu, u.largest, u.per_rank()};
  }
  report.p5_step = {quantile(step_times, 0.05)};
  report.p95_step = {quantile(step_times, 0.95)};
  report.per_op = op_times.result();
  report.first_loss = log ? log->first_loss().value_or(last_loss) : last_loss;
  report.last_loss = last_loss;
  report.held_out_loss = held_out_loss;
  report.steps = progress.step;
  report.tokens = progress.samples * seq;
  report.ranks = u.ranks;  // of this process, as the bytes that follow
  report.arenas = u.sum;
  report.process_peak = u.process;
  report.reserve = plan.cluster.device.reserve;
  report.device = plan.cluster.device.name;
  report.setup = ranks.setup();
  report.versions = {{"kernels", std::string(cpu::instruction_set())}, {"compiler", __VERSION__}};
  if (const std::string attention = ranks.attention(); !attention.empty()) report.versions["attention"] = attention;
  if (first && options.trace && !step_times.empty()) write_file(options.out + "/trace.json", trace_json(ranks));
  if (!stopped) export_weights(options.out + "/hf", ranks, plan.model);
  if (first) write_file(report_path, to_json(report) + "\n");
  return report;
}

}  // namespace llmplan
