// Ranks that are processes: what is lost when one dies, and that nothing stays behind.
#include <doctest/doctest.h>

#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <fstream>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "tests/executor/scratch.h"
#include "tests/executor/tiny_plan.h"

#if !defined(__SANITIZE_THREAD__)  // which does not support threads in a forked child

namespace llmplan {
namespace {

std::vector<pid_t> children_of(pid_t parent) {
  std::ifstream in("/proc/" + std::to_string(parent) + "/task/" + std::to_string(parent) + "/children");
  std::vector<pid_t> pids;
  for (pid_t pid; in >> pid;) pids.push_back(pid);
  return pids;
}

Strategy four_ranks() {
  Strategy s;
  s.tp = s.pp = 2;
  return s;
}

TEST_CASE("A rank's process that is killed at a random moment of a step is named, and the others stop") {
  std::mt19937 random(7);
  for (int attempt = 0; attempt < 10; ++attempt) {
    Ranks ranks(tiny_plan(four_ranks()), nullptr, Placement::processes);
    ranks.init(1);
    const std::vector<pid_t> pids = children_of(getpid());
    REQUIRE(pids.size() == 4);
    const std::size_t victim = random() % 4;
    std::chrono::steady_clock::time_point killed;
    std::jthread killer([&, wait = std::chrono::microseconds(random() % 20'000)] {
      std::this_thread::sleep_for(wait);
      killed = std::chrono::steady_clock::now();
      kill(pids[victim], SIGKILL);
    });
    std::string message;
    const std::string code = error_of([&] {
      for (std::int64_t step = 1;; ++step) ranks.step({step, 1e-3}, tiny_source(step));
    }, &message);
    CHECK(std::chrono::steady_clock::now() - killed < std::chrono::seconds(1));
    CHECK(code == "E0601");
    CHECK(message.starts_with("rank " + std::to_string(victim) + " "));
    CHECK_MESSAGE(message.find("pid " + std::to_string(pids[victim])) != message.npos, message);
    CHECK_MESSAGE(message.find("signal 9") != message.npos, message);
    // The states of the last whole step are still there, in memory that the dead rank shared.
    CHECK(ranks.read(State::weights, ranks.tensors().front().name).size() > 0);
  }
  CHECK(children_of(getpid()).empty());
}

TEST_CASE("An error on the way to one rank's process stops the others, and is the one reported") {
  Ranks ranks(tiny_plan(four_ranks()), nullptr, Placement::processes);
  ranks.init(1);
  SampleSource broken = [](std::int64_t i, auto ids, auto targets) {
    if (i == 6) throw Error("E0402", Exit::data, "the file shrank", "restore it");
    tiny_samples(1, 131, i, ids, targets);
  };
  CHECK(error_of([&] { ranks.step({1, 1e-3}, broken); }) == "E0402");
}

TEST_CASE("Stopping at once ends the processes of ranks in the middle of a step") {
  std::atomic<int> stop = 0;
  Ranks ranks(tiny_plan(four_ranks()), &stop, Placement::processes);
  ranks.init(1);
  SampleSource slow = [&](std::int64_t i, auto ids, auto targets) {
    if (i == 0) {
      stop = 2;
      std::this_thread::sleep_for(std::chrono::milliseconds(300));
    }
    tiny_samples(1, 131, i, ids, targets);
  };
  CHECK(error_of([&] { ranks.step({1, 1e-3}, slow); }) == "E0602");
}

TEST_CASE("Ranks' processes end when the process that made them is killed") {
  int ends[2];
  REQUIRE(pipe(ends) == 0);
  const pid_t parent = fork();
  if (parent == 0) {
    Ranks ranks(tiny_plan(four_ranks()), nullptr, Placement::processes);
    ranks.init(1);
    ranks.step({1, 1e-3}, tiny_source(1));
    [[maybe_unused]] const ssize_t told = write(ends[1], "x", 1);
    for (std::int64_t step = 2;; ++step) ranks.step({step, 1e-3}, tiny_source(step));
  }
  char ready;
  REQUIRE(read(ends[0], &ready, 1) == 1);
  const std::vector<pid_t> pids = children_of(parent);
  CHECK(pids.size() == 4);
  kill(parent, SIGKILL);
  waitpid(parent, nullptr, 0);
  close(ends[1]);
  // The children hold the pipe's other end, too: the stream ends with the last of them.
  const auto begun = std::chrono::steady_clock::now();
  CHECK(read(ends[0], &ready, 1) == 0);
  CHECK(std::chrono::steady_clock::now() - begun < std::chrono::seconds(2));
  close(ends[0]);
}

}  // namespace
}  // namespace llmplan

#endif
