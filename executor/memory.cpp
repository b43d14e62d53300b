#include "executor/memory.h"

#include <fmt/format.h>

#include <algorithm>
#include <fstream>
#include <limits>
#include <string>
#include <vector>

#include "costmodel/error.h"
#include "planner/build.h"

namespace llmplan {
namespace {

// The number of bytes behind "KEY:   1234 kB" in a file of /proc.
Bytes proc_value(const char* file, const std::string& key) {
  std::ifstream in(file);
  for (std::string word; in >> word;)
    if (std::int64_t kib = 0; word == key && in >> kib) return {kib * 1024};
  return {0};
}

// A number in a file of a control group; "max" and a missing file mean no limit.
std::int64_t limit_in(const char* file) {
  std::ifstream in(file);
  std::int64_t value = 0;
  return in >> value ? value : std::numeric_limits<std::int64_t>::max();
}

// All ranks of a plan together.
Bytes needed(const Plan& plan) {
  Lowered train = build(plan, Purpose::train), eval = build(plan, Purpose::evaluate);
  Bytes sum = plan.cluster.device.reserve;
  for (std::size_t s = 0; s < train.layouts.size(); ++s) {
    Bytes stage = std::max(train.layouts[s].device_arena, eval.layouts[s].device_arena) +
                  std::max(train.layouts[s].host_arena, eval.layouts[s].host_arena);
    sum += stage * (plan.strategy.tp * plan.strategy.dp);
  }
  return sum;
}

std::string gib(Bytes b) { return fmt::format("{:.2f} GiB", static_cast<double>(b.value) / static_cast<double>(1 << 30)); }

}  // namespace

Bytes process_peak() { return proc_value("/proc/self/status", "VmHWM:"); }

Bytes process_private(int pid) { return proc_value(fmt::format("/proc/{}/status", pid).c_str(), "RssAnon:"); }

Bytes memory_available() {
  std::int64_t available = proc_value("/proc/meminfo", "MemAvailable:").value;
  if (available == 0) available = std::numeric_limits<std::int64_t>::max();
  for (auto [limit, used] : {std::pair("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
                             std::pair("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes")}) {
    std::int64_t most = limit_in(limit), now = limit_in(used);
    if (most < std::numeric_limits<std::int64_t>::max() && now < most) available = std::min(available, most - now);
  }
  return {available};
}

void require_memory(const Plan& plan) {
  const Bytes need = needed(plan), have = memory_available();
  if (need <= have) return;
  std::vector<std::string> fits;
  auto consider = [&](const std::string& flags, auto change) {
    Plan other = plan;
    change(other.strategy);
    if (other.strategy == plan.strategy) return;
    try {
      if (Bytes n = needed(other); n <= have) fits.push_back(fmt::format("  {} -> {}", flags, gib(n)));
    } catch (const Error&) {  // not a legal strategy
    }
  };
  for (std::int64_t mb = plan.strategy.micro_batch / 2; mb >= 1; mb /= 2)
    consider(fmt::format("--micro-batch {}", mb), [&](Strategy& s) { s.micro_batch = mb; });
  consider("--recompute full", [](Strategy& s) { s.recompute = Recompute::full; });
  consider("--zero 1", [](Strategy& s) { s.zero = s.dp > 1 ? 1 : s.zero; });
  consider("--micro-batch 1 --recompute full --zero 1", [](Strategy& s) {
    s.micro_batch = 1;
    s.recompute = Recompute::full;
    s.zero = s.dp > 1 ? 1 : s.zero;
  });
  std::string hint = "a smaller model or a shorter --seq is needed on this machine";
  if (!fits.empty()) {
    hint = "plan again with any one of these, which fit:";
    for (auto& f : fits) hint += "\n" + f;
  }
  throw Error("E0340", Exit::nothing_fits,
              fmt::format("the plan does not fit: its {} rank{} need {}, {} is available ({} over)", plan.strategy.devices(),
                          plan.strategy.devices() == 1 ? "" : "s", gib(need), gib(have), gib(need - have)),
              hint);
}

}  // namespace llmplan
