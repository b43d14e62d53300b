// CPU time of one closed-form estimate, for strategies of every kind.
#include <ctime>

#include <cstdio>

#include "costmodel/estimate.h"
#include "costmodel/profiles/profiles.h"
#include "costmodel/profiles/runtime_profile.h"

using namespace llmplan;

namespace {
double cpu_seconds() {
  timespec t;
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
  return static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec);
}
}  // namespace

int main() {
  const ModelConfig model = read_model("llama-3.1-8b");
  const Cluster cluster = read_cluster("8x8xh100-80g-sxm");
  Workload workload;
  workload.seq = 8192;
  workload.global_batch = 512;
  const Runtime megatron = read_runtime("megatron-core");
  std::printf("%-44s %12s %16s\n", "strategy", "llmplan us", "megatron-core us");
  for (const auto& [tp, pp, dp, recompute] : {std::tuple{1, 1, 64, 0}, {2, 1, 32, 0}, {8, 1, 8, 0}, {2, 4, 8, 2}, {4, 8, 2, 0}, {1, 16, 4, 2}}) {
    Strategy s;
    s.tp = tp, s.pp = pp, s.dp = dp, s.zero = 1, s.sp = tp > 1, s.recompute = static_cast<Recompute>(recompute);
    double best[2] = {1, 1};
    for (int round = 0; round < 7; ++round)
      for (int which = 0; which < 2; ++which) {
        workload.runtime = which ? "megatron-core" : "llmplan";
        constexpr int kTimes = 4000;
        double sink = 0;
        const double start = cpu_seconds();
        for (int i = 0; i < kTimes; ++i) {
          const auto e = which ? estimate(model, cluster, workload, s, megatron) : estimate(model, cluster, workload, s);
          sink += std::get<Estimate>(e).time.step.value;
        }
        const double each = (cpu_seconds() - start) / kTimes;
        if (sink > 0 && each < best[which]) best[which] = each;
      }
    std::printf("%-44s %12.2f %16.2f\n", describe(s).c_str(), best[0] * 1e6, best[1] * 1e6);
  }
}
