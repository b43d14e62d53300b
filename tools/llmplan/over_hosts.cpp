#include "tools/llmplan/over_hosts.h"

#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <numeric>
#include <regex>
#include <sstream>
#include <vector>

#include <fmt/format.h>

#include "executor/hostfile.h"

namespace llmplan::cli {
namespace {

// This process's own command line without --hostfile.
std::vector<std::string> own_arguments() {
  std::ifstream in("/proc/self/cmdline", std::ios::binary);
  std::vector<std::string> words;
  for (std::string word; std::getline(in, word, '\0');) words.push_back(word);
  words.at(0) = std::filesystem::read_symlink("/proc/self/exe").string();
  std::vector<std::string> kept;
  for (std::size_t i = 0; i < words.size(); ++i) {
    if (words[i] == "--hostfile") ++i;
    else if (!words[i].starts_with("--hostfile=")) kept.push_back(words[i]);
  }
  return kept;
}

// What mpirun's last words say of a rank that a signal ended; empty if nothing.
std::string killed_rank(const std::string& line) {
  static const std::regex pattern(R"(process rank (\d+) with PID (\d+) on node (\S+) exited on (signal \d+ \([^)]*\)))");
  std::smatch m;
  if (!std::regex_search(line, m, pattern)) return "";
  return fmt::format("rank {} on {} was ended by {}", m[1].str(), m[3].str(), m[4].str());
}

}  // namespace

Exit run_over_hosts(const std::string& hostfile, const Plan& plan) {
  const std::vector<Host> hosts = read_hostfile(hostfile);
  const std::int64_t ranks = plan.strategy.devices();
  const std::int64_t slots = std::accumulate(hosts.begin(), hosts.end(), std::int64_t{0}, [](std::int64_t n, const Host& h) { return n + h.slots; });
  if (slots < ranks)
    throw Error("E0509", Exit::environment, fmt::format("the plan has {} ranks, and {} has slots for {}", ranks, hostfile, slots),
                "list more hosts, or raise slots=N to the ranks that each may run", {hostfile, 0, 0, "", 1});
  std::vector<std::string> words = {"mpirun", "-n", std::to_string(ranks), "--hostfile", hostfile};
  for (std::string& word : own_arguments()) words.push_back(std::move(word));
  std::vector<char*> argv;
  for (std::string& word : words) argv.push_back(word.data());
  argv.push_back(nullptr);

  int ends[2];
  if (::pipe(ends) != 0) throw Error("E0508", Exit::environment, "the system refuses a pipe to mpirun", "raise the limit of open files (ulimit -n)");
  const pid_t child = ::fork();
  if (child == 0) {
    ::prctl(PR_SET_PDEATHSIG, SIGTERM);
    ::dup2(ends[1], STDERR_FILENO);
    ::close(ends[0]);
    ::close(ends[1]);
    ::execvp(argv[0], argv.data());
    ::_exit(127);
  }
  ::close(ends[1]);
  std::signal(SIGINT, SIG_IGN);  // a terminal sends it to mpirun as well, which answers it
  std::string killed, line;
  char block[4096];
  for (ssize_t n; (n = ::read(ends[0], block, sizeof block)) > 0 || (n < 0 && errno == EINTR);) {
    if (n < 0) continue;
    std::fwrite(block, 1, static_cast<std::size_t>(n), stderr);
    std::istringstream text(line + std::string(block, static_cast<std::size_t>(n)));
    while (std::getline(text, line) && !text.eof())
      if (const std::string name = killed_rank(line); !name.empty()) killed = name;
  }
  ::close(ends[0]);
  int status = 0;
  while (::waitpid(child, &status, 0) < 0 && errno == EINTR) {}
  std::signal(SIGINT, SIG_DFL);
  if (!killed.empty())
    throw Error("E0601", Exit::rank_lost, killed, "the other ranks stopped because of that one; --resume continues from the last checkpoint");
  const int code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  if (code == 127)
    throw Error("E0515", Exit::environment, "mpirun was not found", "install it (Debian: openmpi-bin), or start the ranks by srun or torchrun");
  for (Exit known : {Exit::ok, Exit::bug, Exit::usage, Exit::nothing_fits, Exit::data, Exit::environment, Exit::rank_lost, Exit::non_finite, Exit::preempted})
    if (code == static_cast<int>(known)) return known;  // the ranks have told why
  throw Error("E0601", Exit::rank_lost, fmt::format("mpirun ended with exit code {}", code), "its own words stand above; --resume continues from the last checkpoint");
}

}  // namespace llmplan::cli
