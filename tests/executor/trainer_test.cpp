// Whole runs: what is written, and that nothing is lost when they end in unusual ways.
#include <doctest/doctest.h>

#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <fmt/format.h>

#include <cmath>
#include <nlohmann/json.hpp>
#include <random>
#include <sstream>
#include <thread>

#include "executor/file.h"
#include "executor/learning_rate.h"
#include "executor/ranks.h"
#include "executor/safetensors.h"
#include "executor/trainer.h"
#include "planner/simulate.h"
#include "tests/executor/scratch.h"
#include "tests/executor/tiny_plan.h"

namespace llmplan {
namespace {

std::string corpus() {
  std::string text;
  for (int i = 0; text.size() < 20'000; ++i)
    text += "line " + std::to_string(i % 97) + " of a text that repeats itself, " + std::to_string(i * i % 31) + "\n";
  return text;
}

Plan text_plan(const Strategy& strategy = {}) {
  Plan p = tiny_plan(strategy);
  p.model.vocab_size = 259;
  p.workload.optimizer.min_lr = 1e-4;
  predict(p);
  return p;
}

struct Run {
  Scratch dir;
  std::string data = dir.write("text", corpus());

  RunOptions options(const std::string& out, std::int64_t steps) const {
    RunOptions o;
    o.data = data;
    o.out = dir / out;
    o.steps = steps;
    o.eval_batches = 2;
    return o;
  }
  std::vector<nlohmann::json> metrics(const std::string& out) const {
    std::istringstream lines(read_file(dir / (out + "/metrics.jsonl")));
    std::vector<nlohmann::json> all;
    for (std::string line; std::getline(lines, line);) all.push_back(nlohmann::json::parse(line));
    return all;
  }
  std::vector<double> losses(const std::string& out) const {
    std::vector<double> all;
    for (auto& m : metrics(out)) all.push_back(m["loss"]);
    return all;
  }
  std::string weights(const std::string& out) const { return read_file(dir / (out + "/hf/model.safetensors")); }
  std::string checkpoint(const std::string& out, int step) const {
    char name[64];
    std::snprintf(name, sizeof name, "/checkpoints/step-%08d.safetensors", step);
    return dir / (out + name);
  }
};

RunReport go(const Plan& plan, const RunOptions& options, const std::function<void(const StepMetrics&)>& on_step = {}) {
  return train(plan, options, on_step);
}

TEST_CASE("A run learns, and writes a line per step, a report, a checkpoint and the weights") {
  Run run;
  Strategy s;
  s.dp = 2;
  s.micro_batch = 2;
  Plan plan = text_plan(s);
  RunOptions options = run.options("out", 60);
  options.eval_every = 20;
  options.trace = true;
  std::vector<double> seen;
  RunReport report = go(plan, options, [&](const StepMetrics& m) { seen.push_back(m.loss); });
  CHECK(report.last_loss < 0.8 * report.first_loss);
  CHECK(report.held_out_loss > 0);
  CHECK(report.held_out_loss < report.first_loss);
  CHECK(report.measured.arena == plan.prediction.arena);
  CHECK(report.arenas == plan.prediction.arena * 2);
  CHECK(report.process_peak > report.arenas);

  auto metrics = run.metrics("out");
  REQUIRE(metrics.size() == 60);
  for (std::size_t i = 0; i < 60; ++i) {
    auto& m = metrics[i];
    for (const char* key : {"step", "time", "loss", "grad_norm", "lr", "tokens", "step_s", "tokens_per_s", "tflops_per_device", "mfu", "memory"})
      CHECK(m.contains(key));
    CHECK(m["step"] == i + 1);
    CHECK(m["loss"] == seen[i]);
    CHECK(m["tokens"] == static_cast<std::int64_t>(i + 1) * 8 * 24);
    CHECK(m.contains("held_out_loss") == ((i + 1) % 20 == 0));
  }
  auto json = nlohmann::json::parse(read_file(run.dir / "out/report.json"));
  CHECK(json["schema"] == "llmplan.report/1");
  for (const char* part : {"predicted", "measured", "error"})
    for (const char* key : {"step", "tokens_per_s", "tflops_per_device", "mfu", "arena_bytes", "peak_memory"}) CHECK(json[part].contains(key));
  CHECK(json["placement"]["ranks"] == 2);
  CHECK(json["placement"]["communicator"] == "threads");
  CHECK(json["loss"]["first"] == seen.front());
  CHECK(json["loss"]["last"] == seen.back());
  double shares = 0;
  for (auto& op : json["per_op"]) shares += op["measured"].get<double>();
  CHECK(shares > 0);
  CHECK(shares < 4 * json["measured"]["step"].get<double>());
  RunReport again = report_from_json(read_file(run.dir / "out/report.json"), "report.json");
  CHECK(to_json(again) == to_json(report));
  json.erase("placement");  // as an earlier version wrote it
  CHECK(report_from_json(json.dump(), "report.json").setup == RankSetup{});
  auto trace = nlohmann::json::parse(read_file(run.dir / "out/trace.json"));
  CHECK(trace["traceEvents"].size() > 100);
  CHECK(std::filesystem::exists(run.checkpoint("out", 60)));
}

TEST_CASE("A run that is stopped and resumed ends with the same bits as one that was not") {
  Run run;
  Strategy s;
  s.pp = s.dp = 2, s.grad_bucket = 1;
  s.zero = 1;
  Plan plan = text_plan(s);
  go(plan, run.options("whole", 12));
  RunOptions part = run.options("part", 12);
  std::atomic<int> stop = 0;
  part.stop = &stop;
  RunReport first = go(plan, part, [&](const StepMetrics& m) { stop = m.step == 5; });
  CHECK(first.stopped);
  CHECK(first.steps == 5);
  CHECK(std::filesystem::exists(run.checkpoint("part", 5)));
  part.stop = nullptr;
  part.resume = true;
  RunReport second = go(plan, part);
  CHECK_FALSE(second.stopped);
  CHECK(run.losses("whole") == run.losses("part"));
  CHECK(run.weights("whole") == run.weights("part"));
  CHECK(read_file(run.checkpoint("whole", 12)) == read_file(run.checkpoint("part", 12)));
  CHECK(second.first_loss == run.losses("whole").front());
  CHECK(to_json(go(plan, part)) == to_json(second));  // nothing is left to do
}

TEST_CASE("A run that is resumed with other hyperparameters names each with both values, and goes on with the new ones") {
  Run run;
  Strategy s;
  s.micro_batch = 4;
  Plan plan = text_plan(s);
  RunOptions part = run.options("part", 8);
  std::atomic<int> stop = 0;
  part.stop = &stop;
  go(plan, part, [&](const StepMetrics& m) { stop = m.step == 3; });
  part.stop = nullptr;
  part.resume = true;
  std::vector<std::string> warnings;
  part.on_warning = [&](const std::string& text) { warnings.push_back(text); };
  plan.workload.optimizer.lr *= 0.5;
  plan.workload.optimizer.clip = 0;
  part.steps = 5;
  const double lr = plan.workload.optimizer.lr;
  std::vector<double> rates;
  go(plan, part, [&](const StepMetrics& m) { rates.push_back(m.lr); });
  REQUIRE(warnings.size() == 1);
  for (const std::string& text : {std::string("step-00000003.safetensors"), fmt::format("lr {} -> {}", 2 * lr, lr), std::string("clip 1 -> 0"), std::string("steps 8 -> 5")})
    CHECK_MESSAGE(warnings[0].find(text) != std::string::npos, warnings[0]);
  CHECK(warnings[0].find("beta") == std::string::npos);  // the same in both
  CHECK(rates.front() == learning_rate(plan.workload.optimizer, 4, 5));

  part.steps = 6;
  go(plan, part);  // from step 5, with the settings of that checkpoint but for the steps
  REQUIRE(warnings.size() == 2);
  CHECK(warnings[1].ends_with(": steps 5 -> 6"));
}

TEST_CASE("A run resumes under another strategy") {
  Run run;
  Strategy a, b;
  a.dp = 4, a.zero = 1, a.grad_bucket = 1;
  b.tp = b.pp = 2, b.sp = true, b.recompute = Recompute::full;
  go(text_plan(a), run.options("whole", 10));
  RunOptions part = run.options("part", 10);
  std::atomic<int> stop = 0;
  part.stop = &stop;
  go(text_plan(a), part, [&](const StepMetrics& m) { stop = m.step == 4; });
  part.stop = nullptr;
  part.resume = true;
  go(text_plan(b), part);
  auto x = run.losses("whole"), y = run.losses("part");
  REQUIRE(y.size() == 10);
  for (std::size_t i = 0; i < 10; ++i) CHECK(std::abs(x[i] / y[i] - 1) < 5e-6);  // as in the equality test
}

#if !defined(__SANITIZE_THREAD__)  // which does not support threads in a forked child
TEST_CASE("A run that is killed again and again, also while it saves, ends with the same bits") {
  Run run;
  Strategy s;
  s.dp = 2;
  Plan plan = text_plan(s);
  go(plan, run.options("whole", 40));
  RunOptions part = run.options("part", 40);
  part.resume = true;
  part.checkpoint_every = 1;
  std::mt19937 random(11);
  int killed = 0;
  for (int attempt = 0; attempt < 8; ++attempt) {
    pid_t child = fork();
    REQUIRE(child >= 0);
    if (child == 0) {
      std::string code = error_of([&] { go(plan, part); });
      _exit(code == "none" ? 0 : 1);
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(30 + random() % 120));
    kill(child, SIGKILL);
    int status = 0;
    waitpid(child, &status, 0);
    if (WIFSIGNALED(status)) ++killed;
    else CHECK(WEXITSTATUS(status) == 0);
  }
  CHECK(killed > 0);
  go(plan, part);
  CHECK(run.losses("whole") == run.losses("part"));
  CHECK(run.weights("whole") == run.weights("part"));
  for (auto& entry : std::filesystem::recursive_directory_iterator(run.dir / "part")) CHECK(entry.path().extension() != ".tmp");
}
#endif

TEST_CASE("When the disk fills up, the run says so and its last checkpoint stays good") {
  Run run;
  Plan plan = text_plan();
  go(plan, run.options("whole", 6));
  RunOptions part = run.options("part", 6);
  part.checkpoint_every = 2;
  // A limit on file sizes fails in the middle of a write, as a full disk does.
  signal(SIGXFSZ, SIG_IGN);
  rlimit old{};
  getrlimit(RLIMIT_FSIZE, &old);
  std::string code = error_of([&] {
    go(plan, part, [&](const StepMetrics& m) {
      rlimit small = old;
      small.rlim_cur = 300'000;
      if (m.step == 3) setrlimit(RLIMIT_FSIZE, &small);
    });
  });
  setrlimit(RLIMIT_FSIZE, &old);
  CHECK(code == "E0502");
  CHECK(std::filesystem::exists(run.checkpoint("part", 2)));
  CHECK_FALSE(std::filesystem::exists(run.checkpoint("part", 4)));
  CHECK_FALSE(std::filesystem::exists(run.checkpoint("part", 4) + ".tmp"));
  part.resume = true;
  go(plan, part);
  CHECK(run.losses("whole") == run.losses("part"));
  CHECK(run.weights("whole") == run.weights("part"));
}

TEST_CASE("A loss that is not finite ends the run, and no checkpoint holds it") {
  Run run;
  Plan plan = text_plan();
  plan.workload.optimizer.lr = 1e30;
  plan.workload.optimizer.clip = 0;
  plan.workload.optimizer.warmup_steps = 0;
  RunOptions options = run.options("out", 50);
  options.checkpoint_every = 1;
  try {
    go(plan, options);
    FAIL("it went on");
  } catch (const Error& e) {
    CHECK(e.code == "E0701");
    CHECK(e.exit == Exit::non_finite);
  }
  auto last = run.metrics("out").back();
  CHECK((last["loss"].is_null() || last["grad_norm"].is_null()));
  int step = last["step"];
  CHECK_FALSE(std::filesystem::exists(run.checkpoint("out", step)));
}

TEST_CASE("One run per directory, and none over another's results") {
  Run run;
  Plan plan = text_plan();
  {
    make_directory(run.dir / "out");
    DirectoryLock lock(run.dir / "out");
    std::string message;
    CHECK(error_of([&] { go(plan, run.options("out", 2)); }, &message) == "E0505");
    CHECK(message.find(std::to_string(getpid())) != message.npos);
  }
  go(plan, run.options("out", 2));
  CHECK(error_of([&] { go(plan, run.options("out", 2)); }) == "E0506");
  RunOptions resumed = run.options("out", 4);
  resumed.resume = true;
  CHECK(go(plan, resumed).steps == 4);
  CHECK(run.metrics("out").size() == 4);

  plan.workload.seed += 1;
  resumed.steps = 6;
  CHECK(error_of([&] { go(plan, resumed); }) == "E0407");
  plan.workload.seed -= 1;
  std::string path = run.checkpoint("out", 4), bytes = read_file(path);
  bytes.back() = static_cast<char>(bytes.back() ^ 1);
  write_file(path, bytes);
  CHECK(error_of([&] { go(plan, resumed); }) == "E0408");
  std::filesystem::remove(path);  // as the message says: the one before it is used
  CHECK(go(plan, resumed).steps == 6);
  CHECK(run.metrics("out").size() == 6);
}

TEST_CASE("Directories that cannot be written are refused before anything else happens") {
  Run run;
  Plan plan = text_plan();
  RunOptions options = run.options("x", 2);
  run.dir.write("file", "");
  options.out = run.dir / "file/out";
  CHECK(error_of([&] { go(plan, options); }) == "E0503");
  options.out = run.dir / "file";
  CHECK(error_of([&] { go(plan, options); }).starts_with("E050"));
  options.out = "/proc/llmplan-out";
  CHECK(error_of([&] { go(plan, options); }).starts_with("E050"));
}

TEST_CASE("Plans that cannot run here are refused with the reason") {
  Run run;
  Plan plan = text_plan();
  plan.cluster.device.cpu = false;
  CHECK(error_of([&] { go(plan, run.options("out", 2)); }) == "E0341");

  plan = text_plan();
  plan.model.hidden_size = 8192;
  plan.model.num_hidden_layers = 80;
  plan.model.num_attention_heads = 64;
  plan.model.num_key_value_heads = 8;
  plan.model.head_dim = 128;
  plan.model.intermediate_size = 28672;
  plan.strategy.layers_per_stage = {};
  try {
    go(plan, run.options("out", 2));
    FAIL("70 billion parameters fitted");
  } catch (const Error& e) {
    CHECK(e.code == "E0340");
    CHECK(e.exit == Exit::nothing_fits);
    CHECK(e.message.find("over") != e.message.npos);
  }
  CHECK_FALSE(std::filesystem::exists(run.dir / "out"));
}

TEST_CASE("A plan that would fit with other settings is told which") {
  Run run;
  Strategy s;
  s.micro_batch = 8;
  Plan plan = text_plan(s);  // 300 million parameters, and about 50 GiB of activations
  plan.model.num_hidden_layers = 24;
  plan.model.hidden_size = 1024;
  plan.model.head_dim = 128;
  plan.model.intermediate_size = 2816;
  plan.workload.seq = 4096;
  plan.model.max_position_embeddings = 0;
  plan.strategy.layers_per_stage = {};
  try {
    go(plan, run.options("out", 2));
    FAIL("it fitted");
  } catch (const Error& e) {
    CHECK(e.code == "E0340");
    CHECK_MESSAGE(e.hint.find("--micro-batch 1") != e.hint.npos, e.message, "\n", e.hint);
  }
}

TEST_CASE("Stopping at once ends a step in its middle, saves nothing, and leaves the last checkpoint") {
  Run run;
  Strategy s;
  s.pp = s.tp = 2;
  RunOptions options = run.options("out", 100);
  std::atomic<int> stop = 0;
  options.stop = &stop;
  options.checkpoint_every = 3;
  CHECK(error_of([&] { go(text_plan(s), options, [&](const StepMetrics& m) { stop = m.step == 4 ? 2 : 0; }); }) == "E0602");
  CHECK(std::filesystem::exists(run.checkpoint("out", 3)));
  CHECK_FALSE(std::filesystem::exists(run.checkpoint("out", 4)));

  Ranks ranks(tiny_plan(s), &stop);
  ranks.init(1);
  stop = 0;
  SampleSource slow = [&](std::int64_t i, auto ids, auto targets) {
    if (i == 0) {  // the other ranks wait for this one meanwhile
      stop = 2;
      std::this_thread::sleep_for(std::chrono::milliseconds(300));
    }
    tiny_samples(1, 131, i, ids, targets);
  };
  CHECK(error_of([&] { ranks.step({1, 1e-3}, slow); }) == "E0602");
}

TEST_CASE("A rank that fails in the middle of a step stops the others, and its own error is the one reported") {
  Strategy s;
  s.tp = s.dp = s.pp = 2;
  Ranks ranks(tiny_plan(s));
  ranks.init(1);
  SampleSource broken = [](std::int64_t i, auto ids, auto targets) {
    if (i == 6) throw Error("E0402", Exit::data, "the file shrank", "restore it");
    tiny_samples(1, 131, i, ids, targets);
  };
  CHECK(error_of([&] { ranks.step({1, 1e-3}, broken); }) == "E0402");
}

}  // namespace
}  // namespace llmplan
