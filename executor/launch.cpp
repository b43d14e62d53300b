#include "executor/launch.h"

#include <fmt/format.h>

#include <charconv>
#include <cstring>

#include "costmodel/error.h"

namespace llmplan {
namespace {

// Variables as the launchers document them; null where there is none.
struct Variables {
  const char* launcher;
  const char* rank;
  const char* size;
  const char* local_rank;
  const char* local_size;
  const char* needs;  // without it, the others are not about this process
  bool mpi;
};
constexpr Variables kLaunchers[] = {
    {"torchrun", "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", nullptr, false},
    {"Open MPI", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_SIZE", nullptr, true},
    {"MPICH or Intel MPI", "PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID", "MPI_LOCALNRANKS", nullptr, true},
    // A batch script itself also sees SLURM_PROCID=0; only srun sets a step.
    {"Slurm", "SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID", nullptr, "SLURM_STEP_ID", false}};

[[noreturn]] void refuse(const std::string& what, const std::string& hint) { throw Error("E0507", Exit::environment, what, hint); }

int number(const Environment& env, const char* name, int least, int otherwise) {
  const char* text = name ? env(name) : nullptr;
  if (!text) return otherwise;
  int value = 0;
  const char* end = text + std::strlen(text);
  if (auto [stop, code] = std::from_chars(text, end, value); code != std::errc{} || stop != end || value < least)
    refuse(fmt::format("{}={} is not a number from {} on", name, text, least), "start all ranks with one launcher, or unset the variable");
  return value;
}

std::string text(const Environment& env, const char* name) {
  const char* value = env(name);
  return value ? value : "";
}

// Where rank 0 can be met without MPI.
void find_master(const Environment& env, Launch& l) {
  l.master = text(env, "MASTER_ADDR");
  l.port = number(env, "MASTER_PORT", 1, 0);
  if (l.port > 65535) refuse(fmt::format("MASTER_PORT={} is not a port", l.port), "ports end at 65535");
  // torchrun's own agent listens on MASTER_PORT; the next one is as free as a guess can be.
  if (text(env, "TORCHELASTIC_USE_AGENT_STORE") == "True" && l.port > 0) l.port = l.port % 65535 + 1;
  if (l.launcher != "Slurm") return;
  if (l.master.empty()) {
    std::string list = text(env, "SLURM_STEP_NODELIST");
    if (list.empty()) list = text(env, "SLURM_JOB_NODELIST");
    if (!list.empty()) l.master = expand_hosts(list).front();
  }
  // Jobs that share a machine get different ports, and all ranks of one job the same.
  if (l.port == 0) l.port = 20'000 + number(env, "SLURM_JOB_ID", 0, 0) % 20'000;
}

}  // namespace

std::vector<Launch> launches(const Environment& env) {
  std::vector<Launch> found;
  for (const Variables& v : kLaunchers) {
    if (!env(v.rank) && !env(v.size)) continue;
    if (!env(v.rank) || !env(v.size)) {
      if (std::string_view(v.launcher) != "torchrun" || !env(v.rank)) continue;  // WORLD_SIZE and the like alone say nothing
      refuse("RANK is set and WORLD_SIZE is not", "torchrun sets both; set WORLD_SIZE, or unset RANK");
    }
    Launch l;
    l.launcher = v.launcher;
    l.from = fmt::format("{}, {}", v.rank, v.size);
    l.rank = number(env, v.rank, 0, 0);
    l.size = number(env, v.size, 1, 1);
    l.local_rank = number(env, v.local_rank, 0, l.rank);
    l.local_size = number(env, v.local_size, 1, 0);
    l.mpi = v.mpi || (v.needs && (env("PMIX_RANK") || env("PMI_RANK")));  // srun --mpi=pmix
    l.active = !v.needs || env(v.needs);
    if (l.rank >= l.size)
      refuse(fmt::format("{}={} and {}={}: ranks count from 0", v.rank, l.rank, v.size, l.size), "start all ranks with one launcher");
    find_master(env, l);
    found.push_back(std::move(l));
  }
  return found;
}

Launch find_launch(const Environment& env) {
  const std::vector<Launch> all = launches(env);
  const Launch* chosen = nullptr;
  for (const Launch& l : all) {
    if (!l.active) continue;
    if (chosen && (chosen->rank != l.rank || chosen->size != l.size))
      refuse(fmt::format("{} says rank {} of {} ({}), {} says rank {} of {} ({})", chosen->launcher, chosen->rank, chosen->size,
                         chosen->from, l.launcher, l.rank, l.size, l.from),
             "unset the variables of the launcher that did not start this process");
    if (!chosen || (l.mpi && !chosen->mpi)) chosen = &l;
  }
  return chosen ? *chosen : Launch{};
}

std::vector<std::string> expand_hosts(const std::string& list) {
  std::vector<std::string> hosts;
  auto bad = [&] { refuse(fmt::format("'{}' is not a list of hosts", list), "Slurm writes them as node[1,3-4],login"); };
  for (std::size_t at = 0; at < list.size();) {
    std::size_t end = at;
    for (int depth = 0; end < list.size() && (depth > 0 || list[end] != ','); ++end) depth += list[end] == '[' ? 1 : list[end] == ']' ? -1 : 0;
    const std::string item = list.substr(at, end - at);
    at = end + 1;
    const std::size_t open = item.find('['), close = item.find(']');
    if (open == std::string::npos) {
      if (item.empty() || close != std::string::npos) bad();
      hosts.push_back(item);
      continue;
    }
    if (close == std::string::npos || close < open) bad();
    const std::string before = item.substr(0, open), after = item.substr(close + 1);
    const std::string inside = item.substr(open + 1, close - open - 1) + ",";
    for (std::size_t from = 0; from < inside.size();) {
      const std::string range = inside.substr(from, inside.find(',', from) - from);
      from += range.size() + 1;
      const std::size_t dash = range.find('-');
      const std::string first = range.substr(0, dash), last = dash == std::string::npos ? first : range.substr(dash + 1);
      if (first.empty() || last.empty() || (first + last).find_first_not_of("0123456789") != std::string::npos || last.size() > 9) bad();
      for (int i = std::stoi(first); i <= std::stoi(last); ++i)
        hosts.push_back(fmt::format("{}{:0{}}{}", before, i, first.size(), after));  // node[01-10] keeps its zeros
    }
  }
  if (hosts.empty()) bad();
  return hosts;
}

}  // namespace llmplan
