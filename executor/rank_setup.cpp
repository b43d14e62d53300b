#include "executor/rank_setup.h"

#include <fmt/format.h>

#include <fstream>

namespace llmplan {
namespace {

std::string counted(int n, const char* one) { return fmt::format("{} {}{}", n, one, n == 1 ? "" : "s"); }

std::string joined_by(const std::string& communicator) {
  if (communicator == "threads") return " as threads";
  if (communicator == "processes") return " as processes with shared memory";
  if (communicator == "tcp") return " over TCP";
  if (communicator == "mpi") return " over MPI, through host memory";
  if (communicator == "nccl") return " over NCCL";
  if (communicator == "shared card") return " by copies inside the card";
  return "";
}

}  // namespace

std::string describe(const RankSetup& s) {
  std::string text = counted(s.ranks, "rank") + joined_by(s.communicator);
  if (s.ranks > s.ranks_on_devices) text += fmt::format(", {} of them on this machine,", s.ranks_on_devices);
  if (s.cpu) return text + fmt::format(" on {} ({})", counted(s.devices, "core"), s.device);
  return text + (s.devices == 1 ? fmt::format(" on one {}", s.device) : fmt::format(" on {} GPUs ({})", s.devices, s.device));
}

std::string caution(const RankSetup& s) {
  if (s.shares_card())
    return fmt::format("{} ranks share a card, and take turns on it: this speed is not that of {} cards, and the prediction is for cards of their own",
                       s.ranks_on_devices, s.ranks_on_devices);
  if (s.cpu && s.ranks_on_devices > s.devices)
    return fmt::format("{} ranks take turns on {}: this speed is not that of {} devices", s.ranks_on_devices, counted(s.devices, "core"), s.ranks);
  return "";
}

std::string cpu_name() {
  std::ifstream in("/proc/cpuinfo");
  for (std::string line; std::getline(in, line);)
    if (line.starts_with("model name"))
      if (const std::size_t colon = line.find(": "); colon != std::string::npos) return line.substr(colon + 2);
  return "CPU";
}

}  // namespace llmplan
