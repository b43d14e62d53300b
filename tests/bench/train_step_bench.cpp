// The training step that `llmplan run` executes, on random tokens: its time, its time by kind of op, and
// the speed of the same program's matrix products alone.
//
//   train_step_bench MODEL [--seq 512] [--batch 8] [--micro-batch 0] [--threads 2] [--steps 5] [--serve]
//
// With --serve it answers lines on stdin ("about", "steps N", "gemm", "kinds") with a line of JSON
// each, so that tests/bench/run can take turns between it and its peers.
#include <fmt/format.h>
#include <time.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <iostream>
#include <limits>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <random>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include "costmodel/error.h"
#include "costmodel/profiles/profiles.h"
#include "executor/arena.h"
#include "executor/cpu/cpu_backend.h"
#include "executor/cpu/kernels.h"
#include "executor/init.h"
#include "executor/local_comm.h"
#include "executor/rope_table.h"
#include "planner/build.h"

namespace llmplan {
namespace {

using Clock = std::chrono::steady_clock;
using nlohmann::json;

double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

// Of all threads. On a machine shared with others it tells what the work costs; the wall clock does not.
double cpu_seconds() {
  timespec t;
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
  return static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec);
}

double median(std::vector<double> values) {
  std::nth_element(values.begin(), values.begin() + values.size() / 2, values.end());
  return values[values.size() / 2];
}

struct Options {
  std::string model;
  std::int64_t seq = 512, batch = 8, micro_batch = 0;
  int threads = 2, steps = 5;
  bool serve = false;
};

Plan make_plan(const Options& o) {
  Plan plan;
  plan.model = read_model(o.model);
  plan.cluster.name = "local";
  plan.cluster.device.cpu = true;
  plan.cluster.device.cores = o.threads;
  plan.workload.seq = o.seq;
  plan.workload.global_batch = o.batch;
  plan.workload.precision = DType::fp32;
  plan.strategy.micro_batch = o.micro_batch > 0 ? o.micro_batch : o.batch;
  plan.strategy.layers_per_stage = {plan.model.num_hidden_layers};
  return plan;
}

// One rank that owns all threads.
class Rank {
 public:
  explicit Rank(const Options& o)
      : options_(o), plan_(make_plan(o)), lowered_(build(plan_)), program_(lowered_.programs.at(0)),
        layout_(lowered_.layouts.at(0)), device_(layout_.device_arena), host_(layout_.host_arena), world_(1, 1, 1),
        communicator_(world_.communicator(0)),
        backend_(world_.coordinates(0), *communicator_, plan_.workload.optimizer, o.threads, device_.data(),
                 host_.data()) {
    std::mt19937 random(1234);
    ids_.resize(o.batch * (o.seq + 1));
    for (std::int32_t& id : ids_) id = static_cast<std::int32_t>(random() % plan_.model.vocab_size);
    samples_ = [this](std::int64_t i, std::span<std::int32_t> ids, std::span<std::int32_t> targets) {
      const std::int32_t* row = ids_.data() + i % options_.batch * (options_.seq + 1);
      std::copy(row, row + ids.size(), ids.begin());
      std::copy(row + 1, row + 1 + targets.size(), targets.begin());
    };
    for (const Param& p : program_.params) {
      init_weights(p, 0, plan_.model.num_hidden_layers, plan_.workload.seed, 0,
                   floats(program_.weights).subspan(p.begin, p.elements()));
    }
    for (BufferId b : {program_.moment1, program_.moment2}) std::ranges::fill(floats(b), 0.0f);
    fill_rope_table(plan_.model, o.seq, floats(program_.rope_table));
  }

  // Seconds of one step; the loss is checked, since fast nonsense is not a result.
  double step() {
    const auto start = Clock::now();
    Execution execution;
    execution.program = &program_;
    execution.layout = &layout_;
    execution.step = {++step_, 1e-3};
    execution.samples = &samples_;
    execution.samples_per_micro_batch = plan_.strategy.micro_batch;
    execution.samples_per_rank = options_.batch;
    execution.start = start;
    backend_.begin(execution);
    timeline_ = execute(program_, backend_);
    const double seconds = seconds_since(start);
    const double loss = this->loss();
    if (!(loss > 0 && loss < 50)) {
      throw Error("E0701", Exit::non_finite, fmt::format("loss is {} after {} steps", loss, step_),
                  "the benchmark's result would be worthless; run the executor's tests");
    }
    return seconds;
  }

  // stats = {Σ grad², Σ loss, Σ counted tokens}, see GradStats.
  double loss() {
    double stats[3];
    std::memcpy(stats, bytes(program_.stats).data(), sizeof stats);
    return stats[1] / stats[2];
  }

  json about() {
    Flops total{};
    for (const Instr& i : program_.instrs) total += flops(i.op);
    return {{"model", plan_.model.name}, {"parameters", parameters(plan_.model)},
            {"tokens", options_.batch * options_.seq}, {"flops_per_step", total.value},
            {"arena_bytes", layout_.device_arena.value}, {"instruction_set", cpu::instruction_set()},
            {"instructions", program_.instrs.size()}, {"micro_batch", plan_.strategy.micro_batch}};
  }

  json steps(int n) {
    json wall = json::array(), cpu = json::array();
    for (int i = 0; i < n; ++i) {
      const double before = cpu_seconds();
      wall.push_back(step());
      cpu.push_back(cpu_seconds() - before);
    }
    return {{"step_s", wall}, {"cpu_s", cpu}, {"tokens", options_.batch * options_.seq}, {"loss", loss()}};
  }

  // FLOP/s of all matrix products of the step, each alone, operands out of cache as in the step.
  json gemm() {
    std::map<std::string, std::pair<Gemm, int>> shapes;
    for (const Instr& i : program_.instrs) {
      if (const Gemm* g = std::get_if<Gemm>(&i.op)) {
        auto key = fmt::format("{}x{}x{} {}{}{}", g->m, g->n, g->k, g->a_transposed ? 'T' : 'N',
                               g->b_transposed ? 'T' : 'N', g->accumulate ? "+" : "");
        ++shapes.try_emplace(key, *g, 0).first->second.second;
      }
    }
    cpu::ThreadPool pool(options_.threads);
    cpu::KernelContext context;
    context.pool = &pool;
    double total_flops = 0, total_seconds = 0, total_cpu = 0;
    json each = json::array();
    for (const auto& [name, shape] : shapes) {
      const auto& [g, count] = shape;
      std::vector<float> a(g.m * g.k, 0.5f), b(g.k * g.n, 0.25f), c(g.m * g.n);
      const std::byte* reads[] = {reinterpret_cast<std::byte*>(a.data()), reinterpret_cast<std::byte*>(b.data())};
      std::byte* writes[] = {reinterpret_cast<std::byte*>(c.data())};
      double best = std::numeric_limits<double>::infinity(), best_cpu = best;
      for (int repeat = 0; repeat < 5; ++repeat) {
        const auto start = Clock::now();
        const double cpu = cpu_seconds();
        cpu::run(g, reads, writes, context);
        best = std::min(best, seconds_since(start));
        best_cpu = std::min(best_cpu, cpu_seconds() - cpu);
      }
      total_flops += count * flops(g).value;
      total_seconds += count * best;
      total_cpu += count * best_cpu;
      each.push_back({{"shape", name}, {"count", count}, {"flops_per_s", flops(g).value / best},
                      {"flops_per_cpu_s", flops(g).value / best_cpu}});
    }
    return {{"flops_per_s", total_flops / total_seconds}, {"flops_per_cpu_s", total_flops / total_cpu},
            {"shapes", each}};
  }

  // Seconds of one step by kind of op, from the measured timeline; medians over three steps.
  json kinds() {
    std::map<std::string, std::vector<double>> times;
    std::map<std::string, std::pair<double, double>> work;
    for (int i = 0; i < 3; ++i) {
      step();
      std::map<std::string, double> sums;
      for (InstrId k = 0; k < static_cast<InstrId>(program_.instrs.size()); ++k) {
        const Op& op = program_.instrs[k].op;
        const std::string kind(kind_of(op));
        sums[kind] += (timeline_[k].finish - timeline_[k].start).value;
        if (i == 0) {
          work[kind].first += flops(op).value;
          work[kind].second += static_cast<double>(bytes_moved(op).value);
        }
      }
      for (const auto& [kind, s] : sums) times[kind].push_back(s);
    }
    json list = json::array();
    for (const auto& [kind, t] : times) {
      list.push_back({{"kind", kind}, {"seconds", median(t)}, {"flops", work[kind].first},
                      {"bytes", work[kind].second}});
    }
    return {{"kinds", list}};
  }

 private:
  std::span<std::byte> bytes(BufferId b) {
    return {device_.data() + layout_.offset[b].value, static_cast<std::size_t>(program_.buffers[b].size.value)};
  }
  std::span<float> floats(BufferId b) {
    std::span<std::byte> raw = bytes(b);
    return {reinterpret_cast<float*>(raw.data()), raw.size() / sizeof(float)};
  }

  Options options_;
  Plan plan_;
  Lowered lowered_;
  const Program& program_;
  const Layout& layout_;
  Arena device_, host_;
  LocalWorld world_;
  std::unique_ptr<Communicator> communicator_;
  cpu::CpuBackend backend_;
  SampleSource samples_;
  std::vector<std::int32_t> ids_;
  Timeline timeline_;
  std::int64_t step_ = 0;
};

void serve(Rank& rank) {
  for (std::string line; std::getline(std::cin, line);) {
    std::istringstream words(line);
    std::string word;
    int n = 1;
    words >> word >> n;
    json reply = word == "steps" ? rank.steps(n) : word == "gemm" ? rank.gemm()
               : word == "kinds" ? rank.kinds() : word == "about" ? rank.about() : json{{"error", line}};
    std::cout << reply.dump() << std::endl;
  }
}

void print(Rank& rank, const Options& o) {
  const json about = rank.about();
  rank.steps(2);
  const json s = rank.steps(o.steps), gemm = rank.gemm(), kinds = rank.kinds();
  const double step = median(s["step_s"]), cpu = median(s["cpu_s"]), tokens = s["tokens"];
  const double rate = about["flops_per_step"].get<double>() / step;
  const double cpu_rate = about["flops_per_step"].get<double>() / cpu;
  fmt::print("{}: {} tokens a step, {} threads, {}, arena {:.0f} MiB\n", o.model, tokens, o.threads,
             about["instruction_set"].get<std::string>(), about["arena_bytes"].get<double>() / (1 << 20));
  fmt::print("step {:.1f} ms ({:.1f} ms of CPU)  {:.0f} tokens/s  {:.0f} GFLOP/s = {:.1f} % of its matrix products'"
             " {:.0f} GFLOP/s  loss {:.4f}\n", step * 1e3, cpu * 1e3, tokens / step, rate / 1e9,
             100 * rate / gemm["flops_per_s"].get<double>(), gemm["flops_per_s"].get<double>() / 1e9,
             s["loss"].get<double>());
  fmt::print("by CPU time: {:.0f} tokens/s on {} undisturbed threads  {:.0f} GFLOP/s a thread = {:.1f} % of {:.0f}\n",
             tokens / cpu * o.threads, o.threads, cpu_rate / 1e9,
             100 * cpu_rate / gemm["flops_per_cpu_s"].get<double>(), gemm["flops_per_cpu_s"].get<double>() / 1e9);
  for (const json& g : gemm["shapes"]) {
    fmt::print("  {:3} x gemm {:24} {:6.0f} GFLOP/s {:6.0f} a thread\n", g["count"].get<int>(),
               g["shape"].get<std::string>(), g["flops_per_s"].get<double>() / 1e9,
               g["flops_per_cpu_s"].get<double>() / 1e9);
  }
  std::vector<json> list = kinds["kinds"];
  std::ranges::sort(list, [](const json& a, const json& b) { return a["seconds"] > b["seconds"]; });
  double covered = 0;
  for (const json& k : list) {
    const double t = k["seconds"];
    covered += t;
    fmt::print("  {:20} {:9.2f} ms {:6.1f} % {:8.0f} GFLOP/s {:7.1f} GB/s\n", k["kind"].get<std::string>(), t * 1e3,
               100 * t / step, k["flops"].get<double>() / t / 1e9, k["bytes"].get<double>() / t / 1e9);
  }
  fmt::print("  {:20} {:9.2f} ms\n", "between ops", (step - covered) * 1e3);
}

Options parse(int argc, char** argv) {
  Options o;
  for (int i = 1; i < argc; ++i) {
    const std::string word = argv[i];
    if (word == "--serve") {
      o.serve = true;
    } else if (!word.starts_with("--")) {
      o.model = word;
    } else {
      const std::int64_t value = ++i < argc ? std::stoll(argv[i]) : 0;
      if (word == "--seq") o.seq = value;
      else if (word == "--batch") o.batch = value;
      else if (word == "--micro-batch") o.micro_batch = value;
      else if (word == "--threads") o.threads = static_cast<int>(value);
      else if (word == "--steps") o.steps = static_cast<int>(value);
      else throw Error("E0101", Exit::usage, "unknown flag " + word, "see the top of train_step_bench.cpp");
    }
  }
  if (o.model.empty()) throw Error("E0101", Exit::usage, "no model given", "try tiny-9m");
  return o;
}

}  // namespace
}  // namespace llmplan

int main(int argc, char** argv) {
  try {
    const llmplan::Options options = llmplan::parse(argc, argv);
    llmplan::Rank rank(options);
    options.serve ? serve(rank) : print(rank, options);
  } catch (const llmplan::Error& e) {
    fmt::print(stderr, "error[{}]: {}\n  {}\n", e.code, e.message, e.hint);
    return static_cast<int>(e.exit);
  }
}
