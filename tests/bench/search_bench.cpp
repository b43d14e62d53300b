// CPU time of tune's search, closed form only: strategies per second, by size of the space.
#include <ctime>

#include <cstdio>

#include "costmodel/profiles/profiles.h"
#include "planner/search.h"

using namespace llmplan;

namespace {
double cpu_seconds() {
  timespec t;
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
  return static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec);
}
}  // namespace

int main() {
  struct Case { const char *model, *cluster; std::int64_t batch; bool everything; };
  std::printf("%-18s %-22s %-10s %10s %10s %8s %14s %14s\n", "model", "cluster", "space", "size", "priced", "s",
              "strategies/s", "priced/s");
  for (const Case& c : {Case{"llama-3.1-8b", "8xh100-80g-sxm", 128, false}, {"llama-3.1-8b", "8xh100-80g-sxm", 128, true},
                        {"llama-3.1-70b", "64x8xh100-80g-sxm", 1024, false}, {"llama-3.1-70b", "64x8xh100-80g-sxm", 1024, true},
                        {"llama-3.1-405b", "2048x8xh100-80g-sxm", 2048, false},
                        {"llama-3.1-405b", "2048x8xh100-80g-sxm", 2048, true}}) {
    const ModelConfig model = read_model(c.model);
    const Cluster cluster = read_cluster(c.cluster);
    Workload workload;
    workload.seq = 8192;
    workload.global_batch = c.batch;
    Limits limits;
    limits.simulate_top = 0;
    limits.estimate_only = c.everything;
    const double start = cpu_seconds();
    const SearchResult r = search(model, cluster, workload, limits);
    const double seconds = cpu_seconds() - start;
    std::printf("%-18s %-22s %-10s %10lld %10lld %8.3f %14.0f %14.0f\n", c.model, c.cluster,
                c.everything ? "everything" : "programs", static_cast<long long>(r.space),
                static_cast<long long>(r.evaluated), seconds, static_cast<double>(r.space) / seconds,
                static_cast<double>(r.evaluated) / seconds);
  }
}
