// llmplan run plan.json --data FILE: trains the plan on this machine.
#include <iostream>

#include <fmt/format.h>

#include "executor/trainer.h"
#include "tools/llmplan/commands.h"
#include "tools/llmplan/documents.h"
#include "tools/llmplan/format.h"
#include "tools/llmplan/plan_io.h"
#include "tools/llmplan/progress.h"
#include "tools/llmplan/run_report.h"
#include "tools/llmplan/stop_signals.h"
#include "tools/llmplan/strategy_fields.h"

namespace llmplan::cli {
namespace {

struct Options {
  std::string plan;
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

Exit run(const Options& options, bool json) {
  RunOptions run = read_options(options);
  const std::int64_t log_every = read_integer("--log-every", options.log_every, 1, 1'000'000'000);
  const Plan plan = read_plan(options.plan);
  std::cerr << fmt::format("plan   {}\n       {} steps of {} tokens, arena {} per rank, predicted {} per step\n", plan_line(plan),
                           grouped(run.steps), grouped(plan.workload.seq * plan.workload.global_batch),
                           bytes_text(plan.prediction.arena), seconds_text(plan.prediction.step))
            << fmt::format("data   {}\nout    {}\n", run.data, run.out);
  RunReport report;
  {
    const StopSignals signals("stopping after this step and saving (press again to quit now)\n");
    run.stop = signals.requested();
    ProgressBar progress(run.steps, log_every);
    report = train(plan, run, [&](const StepMetrics& m) { progress.update(m); });
  }
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
  sub->add_flag("--trace", o->run.trace, "write the measured timeline of the last step");
  sub->callback([o, &session] {
    session.action = [o, &session] { return run(*o, session.json); };
  });
}

}  // namespace llmplan::cli
