// llmplan run plan.json --data FILE: trains the plan on this machine.
#include <atomic>
#include <cstdlib>
#include <iostream>
#include <optional>

#include <fmt/format.h>

#include "executor/checkpoint.h"
#include "executor/communicator.h"
#include "executor/launch.h"
#include "executor/mpi.h"
#include "executor/tcp.h"
#include "executor/trainer.h"
#include "executor/transport.h"
#include "tools/llmplan/commands.h"
#include "tools/llmplan/documents.h"
#include "tools/llmplan/error_output.h"
#include "tools/llmplan/format.h"
#include "tools/llmplan/over_hosts.h"
#include "tools/llmplan/plan_io.h"
#include "tools/llmplan/progress.h"
#include "tools/llmplan/run_report.h"
#include "tools/llmplan/stop_signals.h"
#include "tools/llmplan/strategy_fields.h"

namespace llmplan::cli {
namespace {

struct Options {
  std::string plan, hostfile;
  RunOptions run;
  std::string steps = "100", checkpoint_every = "0", eval_every = "0", eval_batches = "8", held_out = "0.1",
              log_every = "10";
};

RunOptions read_options(const Options& o) {
  constexpr std::int64_t kMost = 1'000'000'000'000;
  RunOptions run = o.run;
  run.steps = read_integer("--steps", o.steps, 1, kMost);
  run.checkpoint_every = read_integer("--checkpoint-every", o.checkpoint_every, 0, kMost);
  run.eval_every = read_integer("--eval-every", o.eval_every, 0, kMost);
  run.eval_batches = read_integer("--eval-batches", o.eval_batches, 1, kMost);
  run.held_out = read_real("--held-out", o.held_out, 0, 0.9);
  return run;
}

// Brings together what mpirun, srun or torchrun started; null when this process is alone.
std::unique_ptr<Transport> meet(const Launch& launch, const Plan& plan) {
  if (launch.size == 1) return nullptr;
  if (const std::int64_t ranks = plan.strategy.devices(); launch.size != ranks) {
    const std::string message = fmt::format("the plan has {} ranks, and {} started {} processes", ranks, launch.launcher, launch.size);
    if (launch.rank > 0) throw ToldByFirst("E0509", Exit::environment, message, "");
    throw Error("E0509", Exit::environment, message,
                fmt::format("start one process per rank, {} in all, or one process alone: it runs all ranks itself", ranks));
  }
  std::string why_not = fmt::format("{} said nothing of MPI", launch.launcher);
  if (launch.mpi) {
    const MpiLibrary& library = mpi_library();
    if (library.api) {
      auto transport = library.api->start();
      if (transport->rank() != launch.rank || transport->size() != launch.size)
        throw Error("E0515", Exit::environment,
                    fmt::format("{} says rank {} of {}, and {} says rank {} of {}", launch.launcher, launch.rank, launch.size,
                                library.api->library(), transport->rank(), transport->size()),
                    "this llmplan was built with another MPI than the one that started it: use the mpirun of the MPI it was built with");
      return transport;
    }
    why_not = library.why_not;
  }
  if (launch.master.empty() || launch.port == 0)
    throw Error("E0515", Exit::environment, fmt::format("the {} ranks cannot meet: {}", launch.size, why_not),
                "build with MPI (LLMPLAN_MPI=ON), or set MASTER_ADDR to rank 0's machine and MASTER_PORT to a free port there");
  return meet_over_tcp({launch.rank, launch.size, launch.master, launch.port});
}

// One of several processes that end for the same reason tells it: the first that is left.
bool is_told_elsewhere(const Error& e, const Launch& launch) {
  if (dynamic_cast<const ToldByFirst*>(&e)) return true;
  if (!dynamic_cast<const RunStopped*>(&e)) return false;
  return launch.rank != (e.message.find("stopped: rank 0 ") == std::string::npos ? 0 : 1);
}

// The end of a process whose network library does not return, from a thread beside the run.
void say_last_words(const std::string& reason, const Launch& launch, std::int64_t step, const std::string& out) {
  RunStopped e(reason);
  if (is_told_elsewhere(e, launch)) return;
  if (launch.rank == 0) tell_where(e, step, latest_checkpoint(out + "/checkpoints").value_or(""));
  std::cerr << render(e, false) << std::flush;
}

RunReport train_as(const Launch& launch, const Plan& plan, RunOptions run, std::int64_t log_every) {
  std::atomic<std::int64_t> step = 1;  // that is under way; lives longer than what may ask for it
  const std::unique_ptr<Transport> transport = meet(launch, plan);
  run.transport = transport.get();
  if (transport)
    transport->when_stuck([&launch, &step, out = run.out](const std::string& reason) { say_last_words(reason, launch, step, out); });
  run.local_rank = launch.local_rank;
  run.local_size = launch.local_size > 0 ? launch.local_size : 1;
  const StopSignals signals(launch.rank == 0 ? "stopping after this step and saving (press again to quit now)\n" : "");
  run.stop = signals.requested();
  try {
    run.on_warning = [](const std::string& text) { std::cerr << "warning: " << text << '\n'; };
    std::optional<ProgressBar> progress;
    if (launch.rank == 0) progress.emplace(run.steps, log_every);
    return train(plan, run, [&](const StepMetrics& m) {
      step = m.step + 1;
      progress->update(m);
    });
  } catch (const std::exception& e) {
    if (transport) transport->stop(fmt::format("rank {} failed: {}", launch.rank, e.what()));
    throw;
  }
}

Exit run(const Options& options, bool json) {
  RunOptions run = read_options(options);
  const Launch launch = find_launch([](const char* name) -> const char* { return std::getenv(name); });
  if (launch.size > 1 && run.processes)
    throw Error("E0342", Exit::usage, fmt::format("--processes starts ranks, and {} started them already", launch.launcher),
                "leave --processes out");
  const std::int64_t log_every = read_integer("--log-every", options.log_every, 1, 1'000'000'000);
  const Plan plan = read_plan(options.plan);
  if (!options.hostfile.empty()) {
    if (launch.size > 1 || run.processes)
      throw Error("E0342", Exit::usage, "--hostfile starts ranks, and something else does already", "leave --hostfile out");
    return run_over_hosts(options.hostfile, plan);
  }
  if (launch.rank == 0) std::cerr << fmt::format("plan   {}\n       {} steps of {} tokens, arena {} per rank, predicted {} per step\n", plan_line(plan),
                           grouped(run.steps), grouped(plan.workload.seq * plan.workload.global_batch),
                           bytes_text(plan.prediction.arena), seconds_text(plan.prediction.step))
            << fmt::format("data   {}\nout    {}\n", run.data, run.out);
  RunReport report;
  try {
    report = train_as(launch, plan, run, log_every);
  } catch (const Error& e) {
    if (is_told_elsewhere(e, launch)) return e.exit;
    throw;
  }
  if (launch.rank > 0) return report.stopped ? Exit::preempted : Exit::ok;
  if (json) std::cout << to_json(report) << '\n';
  else std::cout << report_text(report, run.out);
  if (!report.stopped) return Exit::ok;
  std::cerr << fmt::format("stopped after step {}; continue with:  llmplan run {} --data {} --out {} --steps {} --resume\n",
                           report.steps, options.plan, run.data, run.out, run.steps);
  return Exit::preempted;
}

}  // namespace

void add_run(CLI::App& app, Session& session) {
  CLI::App* sub = app.add_subcommand("run", "train a plan on this machine");
  auto o = std::make_shared<Options>();
  sub->add_option("PLAN", o->plan, "what llmplan tune wrote")->required();
  sub->add_option("--data", o->run.data, "a text file, or the prefix of a Megatron .bin/.idx pair")->type_name("FILE")->required();
  o->run.out = "runs/latest";
  sub->add_option("--out", o->run.out, "directory for metrics, checkpoints and the report (default: runs/latest)")->type_name("DIR");
  sub->add_option("--steps", o->steps, "steps of the whole run (default: 100)")->type_name("N");
  sub->add_flag("--resume", o->run.resume, "continue from the last checkpoint in the directory");
  sub->add_option("--checkpoint-every", o->checkpoint_every, "steps (default: only at the end and when stopped)")->type_name("N");
  sub->add_option("--eval-every", o->eval_every, "steps between held-out losses (default: only at the end)")->type_name("N");
  sub->add_option("--eval-batches", o->eval_batches, "micro-batches per held-out loss and data-parallel rank (default: 8)")->type_name("N");
  sub->add_option("--held-out", o->held_out, "fraction of the data, from its end, kept out of training (default: 0.1)")->type_name("X");
  sub->add_option("--log-every", o->log_every, "steps between lines when stderr is not a terminal (default: 10)")->type_name("N");
  sub->add_option("--init", o->run.init, "start from these weights instead of random ones")->type_name("SAFETENSORS");
  sub->add_flag("--processes", o->run.processes, "a process per rank instead of a thread (plans for cores)");
  sub->add_option("--hostfile", o->hostfile, "start the ranks by mpirun on these machines: a line each, HOST slots=N")->type_name("FILE");
  sub->add_flag("--trace", o->run.trace, "write the measured timeline of the last step");
  sub->callback([o, &session] {
    session.action = [o, &session] { return run(*o, session.json); };
  });
}

}  // namespace llmplan::cli
