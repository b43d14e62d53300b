// Every distinct op of a model's training step, alone: microseconds, GFLOP/s or GB/s, and its share of the
// step's compute. On top, the speed of matrix products and of memory: what the rest is measured against.
//
//   kernel_bench [MODEL…] [--seq 512] [--micro-batch 4] [--threads 2] [--filter TEXT]
//
// Default: tiny-9m tiny-25m tiny-56m. Times are medians. The last three columns use CPU time, which tells the
// kernel's own speed on a machine that is shared: rates of one core, and how many cores the op really had.
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <iostream>
#include <string>
#include <vector>

#include "costmodel/error.h"
#include "costmodel/profiles/profiles.h"
#include "executor/arena.h"
#include "executor/cpu/kernels.h"
#include "planner/lower.h"
#include "planner/verify.h"

namespace llmplan {
namespace {

struct Options {
  std::vector<std::string> models;
  std::int64_t seq = 512, micro_batch = 4;
  int threads = 2;
  std::string filter;
};

struct Measured { double wall, cpu; };  // seconds per call

double now(clockid_t clock) {
  timespec t;
  clock_gettime(clock, &t);
  return static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec);
}

template <class Call>
Measured measure(Call call) {
  call();
  std::vector<double> wall, cpu;
  const double end = now(CLOCK_MONOTONIC) + 0.1;
  while (wall.size() < 5 || (now(CLOCK_MONOTONIC) < end && wall.size() < 200)) {
    const double w = now(CLOCK_MONOTONIC), c = now(CLOCK_PROCESS_CPUTIME_ID);
    call();
    wall.push_back(now(CLOCK_MONOTONIC) - w);
    cpu.push_back(now(CLOCK_PROCESS_CPUTIME_ID) - c);
  }
  const auto middle = [](std::vector<double>& v) {
    std::nth_element(v.begin(), v.begin() + static_cast<std::ptrdiff_t>(v.size() / 2), v.end());
    return v[v.size() / 2];
  };
  return {middle(wall), middle(cpu)};
}

// Operands with plausible contents: small numbers, ids within the vocabulary, positive statistics.
struct Operands {
  explicit Operands(const Op& op) {
    const OperandSizes sizes = operand_sizes(op);
    for (Bytes b : sizes.reads) add(reads, b);
    for (Bytes b : sizes.writes) add(writes, b);
    std::int64_t vocab = 0;
    std::size_t ids = 0;
    if (auto* e = std::get_if<Embedding>(&op)) vocab = e->vocab;
    if (auto* e = std::get_if<EmbeddingGrad>(&op)) vocab = e->vocab;
    if (auto* c = std::get_if<CrossEntropyStats>(&op)) vocab = c->vocab_total, ids = 1;
    if (auto* c = std::get_if<CrossEntropyGrad>(&op)) vocab = c->vocab_total;
    if (vocab > 0) {
      auto* id = reinterpret_cast<std::int32_t*>(memory[ids].data());
      for (std::int64_t i = 0; i < sizes.reads[ids].value / 4; ++i) id[i] = static_cast<std::int32_t>(i * 7919 % vocab);
    }
    if (std::holds_alternative<AdamW>(op)) {
      auto* stats = reinterpret_cast<double*>(memory[1].data());
      stats[0] = 1, stats[1] = 1, stats[2] = 1;
    }
  }
  template <class Pointers>
  void add(Pointers& to, Bytes b) {
    Arena& arena = memory.emplace_back(b);  // on huge pages, as in a run
    auto* x = reinterpret_cast<float*>(arena.data());
    for (std::int64_t i = 0; i < b.value / 4; ++i) x[i] = static_cast<float>((i * 2654435761 >> 7) % 1000) * 1e-4f + 0.01f;
    to.push_back(arena.data());
  }
  std::vector<Arena> memory;
  std::vector<const std::byte*> reads;
  std::vector<std::byte*> writes;
};

std::string shape_of(const Op& op) {
  if (auto* g = std::get_if<Gemm>(&op))
    return fmt::format("{}x{}x{} {}{}{}", g->m, g->n, g->k, g->a_transposed ? 'T' : 'N', g->b_transposed ? 'T' : 'N', g->accumulate ? "+" : "");
  return "";
}

void bench(const Options& o, const std::string& model) {
  Plan plan;
  plan.model = read_model(model);
  plan.cluster.name = "local";
  plan.cluster.device.cpu = true;
  plan.cluster.device.cores = o.threads;
  plan.workload.seq = o.seq;
  plan.workload.global_batch = o.micro_batch;
  plan.workload.precision = DType::fp32;
  plan.strategy.micro_batch = o.micro_batch;
  plan.strategy.layers_per_stage = {plan.model.num_hidden_layers};
  const Program program = lower(plan).at(0);
  std::vector<std::pair<Op, int>> ops;
  for (const Instr& i : program.instrs) {
    if (is_transfer(i.op) || std::holds_alternative<Load>(i.op)) continue;
    auto at = std::ranges::find(ops, i.op, &std::pair<Op, int>::first);
    if (at == ops.end()) ops.emplace_back(i.op, 1);
    else ++at->second;
  }
  cpu::ThreadPool pool(o.threads);
  cpu::KernelContext context;
  context.pool = &pool, context.optimizer = &plan.workload.optimizer, context.params = &program.params;
  struct Row { Op op; int count; Measured time; };
  std::vector<Row> rows;
  double all = 0, all_cpu = 0, gemm_time = 0, gemm_cpu = 0, gemm_flops = 0, work = 0;
  for (const auto& [op, count] : ops) {
    if (!o.filter.empty() && (std::string(kind_of(op)) + " " + shape_of(op)).find(o.filter) == std::string::npos) continue;
    Operands x(op);
    const Measured t = measure([&, &op = op] { cpu::run(op, x.reads, x.writes, context); });
    rows.push_back({op, count, t});
    all += count * t.wall, all_cpu += count * t.cpu, work += count * flops(op).value;
    if (std::holds_alternative<Gemm>(op)) gemm_time += count * t.wall, gemm_cpu += count * t.cpu, gemm_flops += count * flops(op).value;
  }
  if (rows.empty()) throw Error("E0101", Exit::usage, "no op of " + model + " matches '" + o.filter + "'", "Run without --filter to see all.");
  fmt::print("\n{}: seq {}, micro-batch {}, {} threads, {}\n", model, o.seq, o.micro_batch, o.threads, cpu::instruction_set());
  fmt::print("{} {:.1f} ms = {:.0f} tokens/s, {:.0f} GFLOP/s; by CPU time {:.0f} GFLOP/s per core; matrix products {:.0f} GFLOP/s, {:.0f} per core, {:.0f} % of the CPU time\n",
             o.filter.empty() ? "all ops" : "ops " + o.filter, all * 1e3, static_cast<double>(o.seq * o.micro_batch) / all, work / all / 1e9, work / all_cpu / 1e9, gemm_flops / gemm_time / 1e9,
             gemm_flops / gemm_cpu / 1e9, 100 * gemm_cpu / all_cpu);
  fmt::print("{:>4}  {:<20} {:<24} {:>10} {:>8} {:>7} {:>7}  | one core: {:>8} {:>7} {:>6}\n", "n", "op", "m x n x k", "us", "GFLOP/s", "GB/s", "cpu%",
             "GFLOP/s", "GB/s", "cores");
  for (const Row& r : rows) {
    const double f = flops(r.op).value / 1e9, b = static_cast<double>(bytes_moved(r.op).value) / 1e9;
    fmt::print("{:>4}  {:<20} {:<24} {:>10.1f} {:>8.1f} {:>7.1f} {:>6.1f}%  | {:>18.1f} {:>7.1f} {:>6.2f}\n", r.count, kind_of(r.op), shape_of(r.op),
               r.time.wall * 1e6, f / r.time.wall, b / r.time.wall, 100 * r.count * r.time.cpu / all_cpu, f / r.time.cpu, b / r.time.cpu,
               r.time.cpu / r.time.wall);
  }
}

void ceilings(int threads) {
  cpu::ThreadPool pool(threads);
  cpu::KernelContext context;
  context.pool = &pool;
  const Op gemm = Gemm{2048, 1024, 1024, false, true, false, DType::fp32, DType::fp32};
  const Op add = Add{1 << 25, DType::fp32};
  Operands g(gemm), a(add);
  const Measured tg = measure([&] { cpu::run(gemm, g.reads, g.writes, context); });
  const Measured ta = measure([&] { cpu::run(add, a.reads, a.writes, context); });
  const double f = flops(gemm).value / 1e9, b = static_cast<double>(bytes_moved(add).value) / 1e9;
  fmt::print("matrix product 2048x1024x1024: {:.0f} GFLOP/s ({:.0f} per core)   memory (add of 128 MiB): {:.1f} GB/s ({:.1f} per core)\n",
             f / tg.wall, f / tg.cpu, b / ta.wall, b / ta.cpu);
}

int main_of(int argc, char** argv) {
  Options o;
  for (int i = 1; i < argc; ++i) {
    const std::string arg = argv[i];
    const auto value = [&] {
      if (++i < argc) return std::string(argv[i]);
      throw Error("E0101", Exit::usage, arg + " needs a value", "See the head of kernel_bench.cpp.");
    };
    if (arg == "--seq") o.seq = std::stoll(value());
    else if (arg == "--micro-batch") o.micro_batch = std::stoll(value());
    else if (arg == "--threads") o.threads = std::stoi(value());
    else if (arg == "--filter") o.filter = value();
    else o.models.push_back(arg);
  }
  if (o.models.empty()) o.models = {"tiny-9m", "tiny-25m", "tiny-56m"};
  ceilings(o.threads);
  for (const std::string& m : o.models) bench(o, m);
  return 0;
}

}  // namespace
}  // namespace llmplan

int main(int argc, char** argv) {
  try {
    return llmplan::main_of(argc, argv);
  } catch (const llmplan::Error& e) {
    std::cerr << e.what() << "\n" << e.hint << "\n";
    return static_cast<int>(e.exit);
  }
}
