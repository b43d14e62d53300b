// llmplan simulate plan.json: the plan's program on the time model.
#include <iostream>

#include <fmt/format.h>

#include "planner/build.h"
#include "planner/simulate.h"
#include "planner/trace.h"
#include "tools/llmplan/commands.h"
#include "tools/llmplan/documents.h"
#include "tools/llmplan/format.h"
#include "tools/llmplan/plan_io.h"
#include "tools/llmplan/table.h"
#include "tools/llmplan/terminal.h"
#include "tools/llmplan/timeline.h"

namespace llmplan::cli {
namespace {

constexpr int kRows = 16;  // stages drawn; a longer pipeline shows its first and last ones

Json stage_json(int stage, const Program& p, const StageSummary& s, Seconds step) {
  return {{"stage", stage},
          {"instructions", p.instrs.size()},
          {"compute", s.compute.value},
          {"recompute", s.recompute.value},
          {"transfers", s.transfers.value},
          {"exposed_transfers", s.exposed.value},
          {"idle", s.idle.value},
          {"bubble", step.value > 0 ? s.idle / step : 0.0},
          {"arena", s.arena.value},
          {"live_peak", s.live_peak.value},
          {"live_peak_at", s.peak_at.value}};
}

Exit simulate_plan(const std::string& file, const std::string& trace, bool json) {
  const Plan plan = read_plan(file);
  const Lowered lowered = build(plan);
  const Simulation simulation = simulate(lowered.programs, *time_model(plan));
  if (!simulation.deadlock.empty())
    throw Error("E0321", Exit::bug, "the plan's program would hang:\n" + simulation.deadlock,
                "this is a bug in llmplan; please report this plan");
  std::vector<StageSummary> stages;
  for (std::size_t i = 0; i < lowered.programs.size(); ++i)
    stages.push_back(summarize(lowered.programs[i], lowered.layouts[i], simulation.stages[i], simulation.step));

  if (!trace.empty()) write_output(trace, trace_json(lowered.programs, simulation));

  const double tokens = static_cast<double>(plan.workload.seq * plan.workload.global_batch);
  if (json) {
    Json list = Json::array();
    for (std::size_t i = 0; i < stages.size(); ++i)
      list.push_back(stage_json(static_cast<int>(i), lowered.programs[i], stages[i], simulation.step));
    print_document({{"schema", "llmplan.simulate/1"},
                    {"plan_digest", plan.digest},
                    {"step", simulation.step.value},
                    {"tokens_per_s", tokens / simulation.step.value},
                    {"stages", list},
                    {"trace", trace.empty() ? Json(nullptr) : Json(trace)}});
    return Exit::ok;
  }
  std::size_t instructions = 0;
  for (const Program& p : lowered.programs) instructions += p.instrs.size();
  std::cout << fmt::format("{}\nstep {}   {} tok/s   {} instructions in {} stage{}\n\n", plan_line(plan),
                           seconds_text(simulation.step), short_rate(tokens / simulation.step.value), grouped(static_cast<std::int64_t>(instructions)),
                           stages.size(), stages.size() == 1 ? "" : "s");
  const int columns = std::clamp(width(Output::out) - 10, 20, 160);
  std::cout << timeline_rows(lowered.programs, simulation, columns)
            << " F forward  R recompute  B backward  O optimizer  c transfer alone  : partly busy  . idle\n\n";
  std::vector<std::vector<std::string>> rows;
  for (std::size_t i = 0; i < stages.size(); ++i) {
    const StageSummary& s = stages[i];
    if (stages.size() > kRows && i == kRows / 2) rows.push_back({"…"});
    if (stages.size() > kRows && i >= kRows / 2 && i + kRows / 2 < stages.size()) continue;
    rows.push_back({std::to_string(i), seconds_text(s.compute), seconds_text(s.recompute), seconds_text(s.transfers),
                    seconds_text(s.exposed), seconds_text(s.idle), fmt::format("{:.1f} %", 100 * (s.idle / simulation.step)),
                    bytes_text(s.arena), bytes_text(s.live_peak)});
  }
  std::cout << table({{"stage", Align::left}, {"compute"}, {"recompute"}, {"transfers"}, {"exposed"}, {"idle"}, {"bubble"},
                      {"arena"}, {"live peak"}}, rows)
            << "\n memory alive over the step\n";
  for (std::size_t i = 0; i < stages.size(); ++i) {
    if (stages.size() > kRows && i >= kRows / 2 && i + kRows / 2 < stages.size()) continue;
    std::cout << fmt::format(" {:>5} |{}| {}\n", fmt::format("s{}", i),
                             bars(live_bytes(lowered.programs[i], simulation.stages[i], simulation.step, columns), stages[i].arena),
                             bytes_text(stages[i].arena));
  }
  if (!trace.empty()) std::cout << fmt::format("\nwrote {}; open it in https://ui.perfetto.dev or chrome://tracing\n", trace);
  return Exit::ok;
}

}  // namespace

void add_simulate(CLI::App& app, Session& session) {
  CLI::App* sub = app.add_subcommand("simulate", "timeline, bubbles and memory of one step");
  auto plan = std::make_shared<std::string>();
  auto trace = std::make_shared<std::string>();
  sub->add_option("PLAN", *plan, "what llmplan tune wrote")->required();
  sub->add_option("--trace", *trace, "write a Chrome trace (Perfetto)")->type_name("FILE");
  sub->callback([plan, trace, &session] {
    session.action = [plan, trace, &session] { return simulate_plan(*plan, *trace, session.json); };
  });
}

}  // namespace llmplan::cli
