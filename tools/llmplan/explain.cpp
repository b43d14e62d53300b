// llmplan explain plan.json: where every byte and every second goes, with the formula beside it.
#include <algorithm>
#include <iostream>

#include <fmt/format.h>

#include "planner/build.h"
#include "planner/simulate.h"
#include "tools/llmplan/accounts.h"
#include "tools/llmplan/commands.h"
#include "tools/llmplan/documents.h"
#include "tools/llmplan/format.h"
#include "tools/llmplan/plan_io.h"
#include "tools/llmplan/strategy_fields.h"
#include "tools/llmplan/table.h"
#include "tools/llmplan/timeline.h"

namespace llmplan::cli {
namespace {

struct Options {
  std::string plan, stage;
  bool bytes = false, time = false;
};

struct Explained {
  Plan plan;
  int stage = 0;
  Layout layout;
  std::vector<ByteAccount> bytes;
  std::vector<TimeAccount> times;
  StageSummary summary;
  Seconds step{};
};

Explained explain_stage(const Plan& plan, const Options& o) {
  const Lowered lowered = build(plan);
  std::size_t stage = 0;
  for (std::size_t i = 0; i < lowered.layouts.size(); ++i)
    if (lowered.layouts[i].device_arena > lowered.layouts[stage].device_arena) stage = i;
  if (!o.stage.empty())
    stage = static_cast<std::size_t>(read_integer("--stage", o.stage, 0, static_cast<std::int64_t>(lowered.programs.size()) - 1));
  const auto model = time_model(plan);
  const Simulation simulation = simulate(lowered.programs, *model);
  const Program& program = lowered.programs[stage];
  return {plan, static_cast<int>(stage), lowered.layouts[stage], byte_accounts(program, lowered.layouts[stage]),
          time_accounts(program, *model), summarize(program, lowered.layouts[stage], simulation.stages[stage], simulation.step),
          simulation.step};
}

Json to_document(const Explained& e) {
  Json bytes = Json::array(), times = Json::array();
  for (const ByteAccount& a : e.bytes)
    bytes.push_back({{"category", a.category}, {"name", a.name}, {"count", a.count}, {"bytes_each", a.each.value},
                     {"bytes", a.total().value}, {"formula", a.formula}});
  for (const TimeAccount& a : e.times)
    times.push_back({{"op", a.op}, {"kind", a.kind}, {"phase", a.phase}, {"count", a.count}, {"seconds_each", a.each.value},
                     {"seconds", a.total().value}, {"flops", a.flops.value}, {"bytes", a.bytes.value}});
  return {{"schema", "llmplan.explain/1"}, {"plan_digest", e.plan.digest},   {"stage", e.stage},
          {"arena", e.layout.device_arena.value}, {"live_peak", e.layout.live_peak.value},
          {"memory", bytes},                {"time", times},                 {"step", e.step.value},
          {"compute", e.summary.compute.value}, {"exposed_transfers", e.summary.exposed.value},
          {"idle", e.summary.idle.value}};
}

void print_bytes(const Explained& e) {
  std::cout << fmt::format("memory of a rank of stage {}, at the moment when most is alive\n", e.stage);
  std::vector<std::vector<std::string>> rows;
  for (const ByteAccount& a : e.bytes)
    rows.push_back({a.category, bytes_text(a.total()), grouped(a.total().value),
                    fmt::format("= {}{}   {}", a.count == 1 ? "" : fmt::format("{} x ", a.count), a.formula, a.name)});
  rows.push_back({"arena", bytes_text(e.layout.device_arena), grouped(e.layout.device_arena.value), "= the sum"});
  std::cout << table({{"for", Align::left}, {"size"}, {"bytes"}}, rows);
  std::cout << fmt::format(" reserve {} outside the arena: the process, its libraries and threads\n\n",
                           bytes_text(e.plan.cluster.device.reserve));
}

void print_times(const Explained& e) {
  std::cout << fmt::format("time of a rank of stage {}, ops alone; the step takes {}\n", e.stage, seconds_text(e.step));
  std::vector<std::vector<std::string>> rows;
  Seconds rest{};
  std::size_t shown = 0;
  for (const TimeAccount& a : e.times) {
    if (++shown > 24) {
      rest += a.total();
      continue;
    }
    const double rate = a.flops.value > 0 && a.each.value > 0 ? a.flops.value / a.each.value / 1e9 : 0;
    const double bandwidth = a.each.value > 0 ? static_cast<double>(a.bytes.value) / a.each.value / 1e9 : 0;
    rows.push_back({a.op, a.phase, grouped(a.count), seconds_text(a.each), seconds_text(a.total()),
                    fmt::format("{:.1f} %", 100 * (a.total() / e.step)),
                    rate > bandwidth ? fmt::format("{} at {:.1f} GFLOP/s", flops_text(a.flops.value), rate)
                                     : fmt::format("{} at {:.1f} GB/s", bytes_text(a.bytes), bandwidth)});
  }
  if (rest.value > 0) rows.push_back({fmt::format("{} more (--json)", e.times.size() - 24), "", "", "", seconds_text(rest)});
  std::cout << table({{"op", Align::left}, {"phase", Align::left}, {"count"}, {"each"}, {"together"}, {"of step"}}, rows)
            << fmt::format("\n in the simulation: {} compute + {} transfers that nothing hides + {} idle = {}\n",
                           seconds_text(e.summary.compute), seconds_text(e.summary.exposed), seconds_text(e.summary.idle),
                           seconds_text(e.step));
  if (e.plan.cluster.device.cpu && e.plan.strategy.devices() > e.plan.cluster.device.cores)
    std::cout << " (ranks share cores, so ops take longer than alone)\n";
}

}  // namespace

void add_explain(CLI::App& app, Session& session) {
  CLI::App* sub = app.add_subcommand("explain", "where every byte and every second of a plan goes");
  auto o = std::make_shared<Options>();
  sub->add_option("PLAN", o->plan, "what llmplan tune wrote")->required();
  sub->add_option("--stage", o->stage, "pipeline stage (default: the one with the largest arena)")->type_name("N");
  sub->add_flag("--bytes", o->bytes, "memory only");
  sub->add_flag("--time", o->time, "time only");
  sub->callback([o, &session] {
    session.action = [o, &session] {
      const Explained e = explain_stage(read_plan(o->plan), *o);
      if (session.json) {
        print_document(to_document(e));
        return Exit::ok;
      }
      std::cout << plan_line(e.plan) << "\n\n";
      if (o->bytes || !o->time) print_bytes(e);
      if (o->time || !o->bytes) print_times(e);
      return Exit::ok;
    };
  });
}

}  // namespace llmplan::cli
