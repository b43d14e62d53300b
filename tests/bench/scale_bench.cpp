// How the planner's cost grows: a plan is lowered, laid out, verified and simulated op by op.
//   bench_scale            growing steps of llama-3.1-405b on 16,384 H100
#include <fmt/format.h>
#include <sys/resource.h>

#include <algorithm>
#include <chrono>

#include "costmodel/profiles/profiles.h"
#include "planner/build.h"
#include "planner/layout.h"
#include "planner/lower.h"
#include "planner/overlap.h"
#include "planner/simulate.h"
#include "planner/verify.h"

namespace llmplan {
namespace {

double cpu_seconds() {
  rusage u{};
  getrusage(RUSAGE_SELF, &u);
  const auto s = [](timeval t) { return static_cast<double>(t.tv_sec) + 1e-6 * static_cast<double>(t.tv_usec); };
  return s(u.ru_utime) + s(u.ru_stime);
}
double peak_gib() {
  rusage u{};
  getrusage(RUSAGE_SELF, &u);
  return static_cast<double>(u.ru_maxrss) / (1 << 20);  // KiB
}

Plan plan_405b(std::int64_t global_batch) {
  Plan p;
  p.model = read_model("llama-3.1-405b");
  p.cluster = read_cluster("2048x8xh100-80g-sxm");
  p.workload.seq = 8192;
  p.workload.global_batch = global_batch;
  p.strategy.tp = 8, p.strategy.pp = 16, p.strategy.dp = 128;
  p.strategy.sp = true, p.strategy.zero = 1;
  return p;
}

void measure(std::int64_t global_batch) {
  const Plan plan = plan_405b(global_batch);
  double last = cpu_seconds();
  const auto lap = [&] { const double now = cpu_seconds(), t = now - last; last = now; return t; };
  const auto wall = std::chrono::steady_clock::now();

  std::vector<Program> programs = lower(plan);
  const double lowered = lap();
  for (Program& p : programs) overlap(p);
  const double overlapped = lap();
  std::vector<Layout> layouts;
  double worst = 0;
  for (Program& p : programs) {
    layouts.push_back(place(p));
    worst = std::max(worst, layouts.back().device_arena / layouts.back().live_peak - 1);
  }
  const double placed = lap();
  verify(programs, layouts);
  const double verified = lap();
  const Simulation run = simulate(programs, *time_model(plan));
  const double simulated = lap();
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - wall).count();

  std::size_t n = 0, waits = 0;
  for (const Program& p : programs) {
    n += p.instrs.size();
    for (const Instr& i : p.instrs) waits += i.waits.size();
  }
  const double total = lowered + overlapped + placed + verified + simulated;
  fmt::print("{:>6} {:>9} {:>7} | {:>6.2f} {:>7.2f} {:>6.2f} {:>6.2f} {:>8.2f} | {:>6.2f} {:>6.2f} {:>7.2f} {:>6.2f} | {:>8.3f} {:>7.2f} %\n",
             global_batch, n, waits, lowered, overlapped, placed, verified, simulated, total, seconds,
             total / static_cast<double>(n) * 1e6, peak_gib(), run.step.value, worst * 100);
}

}  // namespace
}  // namespace llmplan

int main(int argc, char** argv) {
  using namespace llmplan;
  fmt::print("llama-3.1-405b, seq 8192, 16384 H100 (tp 8, pp 16, dp 128, 1F1B, sp, ZeRO-1); CPU seconds\n");
  fmt::print(" batch    instrs   waits |  lower overlap  place verify simulate |  total   wall us/inst    GiB |     step  arena over lower bound\n");
  if (argc > 1) measure(std::stoll(argv[1]));
  else
    for (std::int64_t batch : {512, 1024, 2048, 4096, 8192, 16384}) measure(batch);
}
