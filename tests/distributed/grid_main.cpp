// The strategy grid over processes that share no memory. `mpirun -n 4 test_distributed` goes over MPI; started alone, it
// forks four processes that meet over TCP. Rank 0 compares with ranks as threads, to the bit. An argument N goes through
// every N-th strategy only. Then the narrow precisions, and a step that fp16 must skip on all ranks because one overflowed.
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <memory>

#include "executor/launch.h"
#include "executor/learning_rate.h"
#include "executor/mpi.h"
#include "executor/tcp.h"
#include "planner/simulate.h"
#include "tests/executor/grid.h"
#include "tests/executor/tiny_plan.h"

namespace llmplan {
namespace {

// The first processes of a transport, for strategies with fewer ranks.
class Part final : public Transport {
 public:
  Part(Transport& whole, int size) : whole_(whole), size_(size) {}
  int rank() const override { return whole_.rank(); }
  int size() const override { return size_; }
  std::string name() const override { return whole_.name(); }
  void exchange(Channel c, std::span<const Outgoing> out, std::span<const Incoming> in) override { whole_.exchange(c, out, in); }
  void stop(const std::string& reason) noexcept override { whole_.stop(reason); }

 private:
  Transport& whole_;
  int size_;
};

struct Outcome {
  std::vector<double> numbers;
  std::map<std::string, std::vector<float>> gradients, weights, moments;
  bool operator==(const Outcome&) const = default;
};

Outcome result_of(Ranks& ranks, const Plan& plan) {
  Outcome out;
  ranks.init(plan.workload.seed);
  const StepResult r = ranks.step({1, learning_rate(plan.workload.optimizer, 1, 20)}, tiny_source(1));
  out.numbers = {r.loss, r.grad_norm};
  for (auto& t : ranks.tensors()) {
    out.gradients[t.name] = ranks.read(State::gradients, t.name);
    out.weights[t.name] = ranks.read(State::weights, t.name);
    out.moments[t.name] = ranks.read(State::moment2, t.name);
  }
  // What one process reads, all get again: the way of a checkpoint that is loaded.
  for (auto& t : ranks.tensors()) {
    std::vector<float> values = out.weights[t.name];
    if (ranks.transport()) broadcast(*ranks.transport(), std::as_writable_bytes(std::span(values)));
    ranks.write(State::weights, t.name, 0, values);
  }
  out.numbers.push_back(ranks.evaluate(1, tiny_source(3)));
  return out;
}

// Sizes that fp8 takes.
Plan narrow_plan(DType precision, const Strategy& s) {
  Plan p = tiny_plan(s);
  p.model.hidden_size = 64, p.model.head_dim = 8, p.model.intermediate_size = 160;
  p.workload.seq = 32;
  p.workload.precision = precision;
  return p;
}

// How many of {precision} × {strategy} differ from threads.
int narrow_differences(Transport& transport) {
  Strategy tp, pp, dp;
  tp.tp = 2, tp.dp = 2, tp.sp = true, tp.zero = 1;
  pp.pp = 2, pp.tp = 2, pp.micro_batch = 2;
  dp.dp = 2, dp.pp = 2, dp.zero = 1, dp.recompute = Recompute::full;
  int different = 0;
  for (const DType precision : {DType::fp16, DType::bf16, DType::fp8_e4m3})
    for (const Strategy& s : {tp, pp, dp}) {
      const Plan plan = narrow_plan(precision, s);
      Ranks distributed(plan, nullptr, transport, transport.rank(), transport.size());
      const Outcome got = result_of(distributed, plan);
      if (transport.rank() > 0) continue;
      Ranks threads(plan);
      if (got == result_of(threads, plan)) continue;
      ++different;
      std::printf("differs: %s %s\n", std::string(name_of(precision)).c_str(), describe(s).c_str());
    }
  return different;
}

// Ranks of the first dp position have no targets, so their gradients are 0 at any loss scale; those of the other overflow
// at this one. Returns what is wrong on this rank, or nothing.
std::string overflow_of_one(Transport& transport, const Strategy& s) {
  Plan plan = narrow_plan(DType::fp16, s);
  plan.workload.optimizer.loss_scale = 0x1p40;
  const std::int64_t half = plan.workload.global_batch / 2;
  const SampleSource samples = [half](std::int64_t i, std::span<std::int32_t> ids, std::span<std::int32_t> targets) {
    tiny_samples(1, 131, i, ids, targets);
    if (i < half) std::fill(targets.begin(), targets.end(), -1);
  };
  Ranks ranks(plan, nullptr, transport, transport.rank(), transport.size());
  ranks.init(1);
  const auto weights = [&] {
    std::map<std::string, std::vector<float>> all;
    for (auto& t : ranks.tensors()) all[t.name] = ranks.read(State::weights, t.name);
    return all;
  };
  const auto before = weights();
  std::string wrong;
  if (!ranks.step({1, 1e-2}, samples).skipped) wrong = "took a step whose gradients overflowed on another rank";
  if (ranks.loss_scaling().scale != 0x1p39) wrong = "did not halve the loss scale";
  if (weights() != before) wrong = "changed weights in a step that was skipped";
  LossScaling small = ranks.loss_scaling();
  small.scale = 1024;
  ranks.set_loss_scaling(small);
  if (ranks.step({2, 1e-2}, samples).skipped) wrong = "skipped a step without an overflow";
  if (weights() == before && ranks.first()) wrong = "changed nothing in a step that was taken";
  return wrong;
}

int overflow_failures(Transport& transport) {
  Strategy tp, pp, zero;
  tp.dp = tp.tp = 2;
  pp.dp = pp.pp = 2;
  zero.dp = zero.tp = 2, zero.zero = 1, zero.sp = true;
  int failures = 0;
  for (const Strategy& s : {tp, pp, zero}) {
    const std::string wrong = overflow_of_one(transport, s);
    if (!wrong.empty()) std::printf("rank %d, %s: %s\n", transport.rank(), describe(s).c_str(), wrong.c_str()), ++failures;
  }
  return failures;
}

int go(Transport& transport, int every) {
  int compared = 0, different = 0, index = 0;
  for (const Strategy& s : grid()) {
    const auto ranks_of_plan = static_cast<int>(s.devices());
    if (ranks_of_plan < 2 || ranks_of_plan > transport.size()) continue;
    if (++index % every != 0) continue;
    const Plan plan = tiny_plan(s, index / every % 2 == 0);
    if (transport.rank() >= ranks_of_plan) continue;
    Part part(transport, ranks_of_plan);
    Ranks distributed(plan, nullptr, part, transport.rank(), transport.size());
    const Outcome got = result_of(distributed, plan);
    if (transport.rank() > 0) continue;
    Ranks threads(plan);
    ++compared;
    if (got == result_of(threads, plan)) continue;
    ++different;
    std::printf("differs: %s\n", describe(s).c_str());
  }
  different += narrow_differences(transport);
  const int failures = overflow_failures(transport);
  agree(transport, 0);  // nobody leaves before the last is done
  if (transport.rank() == 0) std::printf("%d strategies over %d processes, %d differ from threads\n", compared, transport.size(), different);
  return failures > 0 || (transport.rank() == 0 && (different > 0 || compared < 100 / every)) ? 1 : 0;
}

int guarded(int every, const std::function<std::unique_ptr<Transport>()>& start) {
  std::unique_ptr<Transport> transport;
  try {
    transport = start();
    return go(*transport, every);
  } catch (const Error& e) {
    std::printf("error[%s]: %s\n", e.code.c_str(), e.message.c_str());
    if (transport) transport->stop(e.message);
    return 1;
  }
}

}  // namespace
}  // namespace llmplan

int main(int argc, char** argv) {
  using namespace llmplan;
  const int every = argc > 1 ? std::max(1, std::atoi(argv[1])) : 1;
  const Launch launch = find_launch([](const char* name) -> const char* { return std::getenv(name); });
  if (launch.mpi) {
    if (!mpi_library().api) {
      std::printf("skipped: %s\n", mpi_library().why_not.c_str());
      return 0;
    }
    return guarded(every, [] { return mpi_library().api->start(); });
  }
  const int port = 20'000 + getpid() % 10'000;
  for (int r = 0; r < 4; ++r)
    if (fork() == 0) {
      const int code = guarded(every, [&] { return meet_over_tcp({r, 4, "127.0.0.1", port}); });
      std::fflush(stdout);
      _exit(code);
    }
  int worst = 0;
  for (int status, i = 0; i < 4; ++i) {
    wait(&status);
    if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) worst = 1;
  }
  return worst;
}
