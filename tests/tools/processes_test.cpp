// Ranks that are processes, as a user sees them: `llmplan run --processes`, mpirun, and torchrun's variables.
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <fstream>
#include <map>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include <doctest/doctest.h>

#include "tests/tools/shell.h"

using namespace llmplan;
using Clock = std::chrono::steady_clock;

namespace {

// A model of 20,000 parameters on 4 ranks.
std::string prepared(const std::string& name) {
  const std::string dir = scratch(name);
  std::string text;
  for (int i = 0; i < 500; ++i) text += "line " + std::to_string(i) + " of a text to learn\n";
  write_text(dir + "/text.txt", text);
  write_text(dir + "/config.json",
             R"({"model_type": "llama", "hidden_size": 32, "num_hidden_layers": 2, "intermediate_size": 64, "num_attention_heads": 4,
                 "num_key_value_heads": 2, "vocab_size": 259, "max_position_embeddings": 64, "tie_word_embeddings": true})");
  const ShellResult r = sh("\"$LLMPLAN\" tune config.json --precision fp32 --seq 32 --global-batch 4 --micro-batch 2 --dp 2 --tp 2 --pp 1 -o plan.json", dir);
  REQUIRE_MESSAGE(r.exit == 0, r.err);
  return dir;
}

// Starts a command in the background, in `directory`, with stderr in a file and more variables.
pid_t start(std::vector<std::string> words, const std::string& directory, const std::string& errors,
            const std::map<std::string, std::string>& variables = {}) {
  std::vector<char*> argv;
  for (std::string& w : words) argv.push_back(w.data());
  argv.push_back(nullptr);
  const pid_t pid = fork();
  if (pid == 0) {
    for (auto& [name, value] : variables) setenv(name.c_str(), value.c_str(), 1);
    if (chdir(directory.c_str()) != 0 || !freopen(errors.c_str(), "w", stderr) || !freopen("/dev/null", "w", stdout)) _exit(126);
    execv(argv[0], argv.data());
    _exit(127);
  }
  return pid;
}

std::vector<pid_t> children_of(pid_t parent) {
  std::ifstream in("/proc/" + std::to_string(parent) + "/task/" + std::to_string(parent) + "/children");
  std::vector<pid_t> pids;
  for (pid_t pid; in >> pid;) pids.push_back(pid);
  return pids;
}

}  // namespace

TEST_CASE("Training with a process per rank gives the bits that threads give, Ctrl-C saves, and --resume goes on") {
  const std::string dir = prepared("processes");
  const ShellResult threads = sh("\"$LLMPLAN\" run plan.json --data text.txt --out threads --steps 20", dir);
  REQUIRE_MESSAGE(threads.exit == 0, threads.err);
  const ShellResult stopped = sh(
      "\"$LLMPLAN\" run plan.json --data text.txt --out broken --steps 20 --log-every 1 --processes 2>log & pid=$!\n"
      "until [ \"$(wc -l <broken/metrics.jsonl 2>/dev/null || echo 0)\" -ge 3 ]; do sleep 0.01; done\n"
      "kill -INT $pid $(cat /proc/$pid/task/$pid/children); wait $pid",  // as a terminal does, to the whole group
      dir);
  CHECK_MESSAGE((stopped.exit == 75 || stopped.exit == 0), file_text(dir + "/log"));  // 0: it was done before the signal came
  const ShellResult resumed = sh("\"$LLMPLAN\" run plan.json --data text.txt --out broken --steps 20 --resume --processes", dir);
  REQUIRE_MESSAGE(resumed.exit == 0, resumed.err);
  CHECK(sh("cmp threads/hf/model.safetensors broken/hf/model.safetensors", dir).exit == 0);
  CHECK(sh("grep -q '\"communicator\": \"threads\"' threads/report.json && grep -q '\"communicator\": \"processes\"' broken/report.json", dir).exit == 0);
  const ShellResult report = sh("\"$LLMPLAN\" report threads", dir);
  CHECK_MESSAGE(report.out.find(" ranks          4 ranks as threads on ") != std::string::npos, report.out);
}

TEST_CASE("A rank killed at a random moment ends all others within 2 s, with exit code 6 and its name, 50 times") {
  const std::string dir = prepared("killed");
  std::mt19937 random(3);
  for (int attempt = 0; attempt < 50; ++attempt) {
    const std::string errors = dir + "/errors";
    const pid_t parent = start({LLMPLAN_BINARY, "run", "plan.json", "--data", "text.txt", "--steps", "1000000", "--out",
                                "run" + std::to_string(attempt), "--processes"}, dir, errors);
    std::vector<pid_t> ranks;
    const auto begun = Clock::now();
    while ((ranks = children_of(parent)).size() < 4 && Clock::now() - begun < std::chrono::seconds(20))
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    REQUIRE_MESSAGE(ranks.size() == 4, file_text(errors));
    std::this_thread::sleep_for(std::chrono::microseconds(random() % 60'000));
    const std::size_t victim = random() % 4;
    kill(ranks[victim], SIGKILL);
    const auto killed = Clock::now();
    int status = 0;
    waitpid(parent, &status, 0);
    INFO(file_text(errors));
    CHECK(Clock::now() - killed < std::chrono::seconds(2));
    CHECK(WIFEXITED(status));
    CHECK(WEXITSTATUS(status) == 6);
    CHECK(file_text(errors).find("error[E0601]: rank " + std::to_string(victim) + " (") != std::string::npos);
    CHECK(file_text(errors).find("pid " + std::to_string(ranks[victim])) != std::string::npos);
    for (const pid_t rank : ranks) CHECK(kill(rank, 0) != 0);  // nobody is left
  }
}

TEST_CASE("mpirun trains to the bits of one process, and resumes a checkpoint of another number of processes") {
  const std::string dir = prepared("mpi");
  if (sh("command -v mpirun && \"$LLMPLAN\" env --json | grep -q '\"usable\": *true'", dir).exit != 0) {
    MESSAGE("skipped: no mpirun, or built without MPI");
    return;
  }
  const std::string mpirun = "mpirun --oversubscribe --allow-run-as-root -n 4 ";
  const ShellResult one = sh("\"$LLMPLAN\" run plan.json --data text.txt --out one --steps 12", dir);
  REQUIRE_MESSAGE(one.exit == 0, one.err);
  const ShellResult whole = sh(mpirun + "\"$LLMPLAN\" run plan.json --data text.txt --out whole --steps 12 --checkpoint-every 5", dir);
  REQUIRE_MESSAGE(whole.exit == 0, whole.err);
  CHECK(sh("cmp one/hf/model.safetensors whole/hf/model.safetensors", dir).exit == 0);
  CHECK(sh("test $(wc -l <whole/metrics.jsonl) -eq 12 && grep -q '\"communicator\": \"mpi\"' whole/report.json", dir).exit == 0);
  // From the checkpoint of step 10, written by four processes, on in four others.
  CHECK(sh("mkdir -p part/checkpoints && cp whole/checkpoints/step-00000010.safetensors part/checkpoints", dir).exit == 0);
  const ShellResult resumed = sh(mpirun + "\"$LLMPLAN\" run plan.json --data text.txt --out part --steps 12 --resume", dir);
  REQUIRE_MESSAGE(resumed.exit == 0, resumed.err);
  CHECK(sh("cmp one/hf/model.safetensors part/hf/model.safetensors", dir).exit == 0);

  const ShellResult wrong = sh("mpirun --oversubscribe --allow-run-as-root -n 3 \"$LLMPLAN\" run plan.json --data text.txt --out wrong", dir);
  CHECK(wrong.exit == 5);
  CHECK_MESSAGE(wrong.err.find("the plan has 4 ranks, and Open MPI started 3 processes") != std::string::npos, wrong.err);

  // Killed under a bare mpirun, which returns 128 + 9 whatever the others return. Nobody hangs; rank 0 says who it was, unless
  // mpirun, which names it, too, closed rank 0's output first.
  for (int attempt = 0; attempt < 3; ++attempt) {
    const ShellResult bare = sh(
        "rm -rf bare; mpirun --oversubscribe --allow-run-as-root --mca pml ob1 --mca btl self,tcp -n 4 "
        "\"$LLMPLAN\" run plan.json --data text.txt --out bare --steps 1000000 & pid=$!\n"
        "until [ -s bare/metrics.jsonl ]; do sleep 0.01; kill -0 $pid || exit 1; done\n"
        "ranks=($(cat /proc/$pid/task/*/children)); date +%s%N >at; kill -KILL ${ranks[2]} || kill $pid; wait $pid; code=$?\n"
        "echo $((($(date +%s%N) - $(cat at)) / 1000000)) >ms; exit $code",
        dir);
    CHECK_MESSAGE(bare.exit == 137, bare.err);
    CHECK(std::stoi(file_text(dir + "/ms")) < 5000);
    const bool told = bare.err.find("error[E0601]: the run was stopped: rank 2 (pid ") != std::string::npos;
    CHECK_MESSAGE((told || bare.err.find("process rank 2 ") != std::string::npos), bare.err);
  }

  // Started by llmplan itself, and a rank killed.
  write_text(dir + "/hosts", "localhost slots=4\n");
  const ShellResult killed = sh(
      "export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1\n"
      "\"$LLMPLAN\" run plan.json --data text.txt --out killed --steps 1000000 --hostfile hosts & pid=$!\n"
      "until [ -s killed/metrics.jsonl ]; do sleep 0.01; kill -0 $pid || exit 1; done\n"
      "read -r mpirun </proc/$pid/task/$pid/children\n"
      "ranks=($(cat /proc/$mpirun/task/*/children)); date +%s%N >at; kill -KILL ${ranks[2]} || kill $pid; wait $pid; code=$?\n"
      "echo $((($(date +%s%N) - $(cat at)) / 1000000)) >ms; exit $code",
      dir);
  CHECK_MESSAGE(killed.exit == 6, killed.err);
  CHECK(std::stoi(file_text(dir + "/ms")) < 5000);  // the ranks end at once; mpirun itself may take 2 s to clear up
  CHECK_MESSAGE(killed.err.find("rank 2 (pid ") != std::string::npos, killed.err);
  CHECK_MESSAGE(killed.err.find("error[E0601]: ") != std::string::npos, killed.err);
  CHECK(sh("\"$LLMPLAN\" run plan.json --data text.txt --hostfile hosts --processes", dir).exit == 2);
}

TEST_CASE("Ranks that torchrun's variables name meet over TCP; one that is killed ends the others within 2 s, code 6, its name") {
  const std::string dir = prepared("tcp");
  const ShellResult one = sh("\"$LLMPLAN\" run plan.json --data text.txt --out one --steps 12", dir);
  REQUIRE_MESSAGE(one.exit == 0, one.err);
  std::mt19937 random(5);
  int port = 30'000 + getpid() % 10'000;
  for (int attempt = 0; attempt < 6; ++attempt) {
    const bool whole = attempt == 0;  // the first is left alone
    const std::string out = "run" + std::to_string(attempt);
    ++port;
    std::vector<pid_t> ranks;
    for (int r = 0; r < 4; ++r)
      ranks.push_back(start({LLMPLAN_BINARY, "run", "plan.json", "--data", "text.txt", "--steps", whole ? "12" : "1000000", "--out", out}, dir,
                            dir + "/errors" + std::to_string(r),
                            {{"RANK", std::to_string(r)}, {"WORLD_SIZE", "4"}, {"LOCAL_RANK", std::to_string(r)}, {"LOCAL_WORLD_SIZE", "4"},
                             {"MASTER_ADDR", "127.0.0.1"}, {"MASTER_PORT", std::to_string(port)}}));
    const std::size_t victim = whole ? 4 : random() % 4;
    auto killed = Clock::now();
    if (!whole) {
      const auto begun = Clock::now();
      while (file_text(dir + "/" + out + "/metrics.jsonl").empty() && Clock::now() - begun < std::chrono::seconds(20))
        std::this_thread::sleep_for(std::chrono::milliseconds(2));
      std::this_thread::sleep_for(std::chrono::microseconds(random() % 40'000));
      kill(ranks[victim], SIGKILL);
      killed = Clock::now();
    }
    std::string told;
    for (std::size_t r = 0; r < 4; ++r) {
      int status = 0;
      waitpid(ranks[r], &status, 0);
      told += file_text(dir + "/errors" + std::to_string(r));
      if (r == victim) continue;
      CHECK(WIFEXITED(status));
      CHECK_MESSAGE(WEXITSTATUS(status) == (whole ? 0 : 6), told);
    }
    if (whole) {
      CHECK(sh("cmp one/hf/model.safetensors run0/hf/model.safetensors && grep -q '\"communicator\": \"tcp\"' run0/report.json", dir).exit == 0);
      continue;
    }
    CHECK(Clock::now() - killed < std::chrono::seconds(2));
    CHECK_MESSAGE(told.find("rank " + std::to_string(victim) + " (pid " + std::to_string(ranks[victim]) + " on ") != std::string::npos, told);
    CHECK(told.find("vanished") != std::string::npos);
  }
}
