// llmplan tune MODEL: search the strategies, write the best plan, and say how the space was covered.
#include <iostream>

#include <fmt/format.h>

#include "planner/search.h"
#include "planner/simulate.h"
#include "tools/llmplan/commands.h"
#include "tools/llmplan/documents.h"
#include "tools/llmplan/format.h"
#include "tools/llmplan/options.h"
#include "tools/llmplan/plan_io.h"
#include "tools/llmplan/relax.h"
#include "tools/llmplan/strategy_fields.h"
#include "tools/llmplan/strategy_table.h"
#include "tools/llmplan/table.h"
#include "tools/llmplan/terminal.h"
#include "tools/llmplan/uncertainty.h"

namespace llmplan::cli {
namespace {

struct Options {
  Typed typed;
  std::string out = "plan.json";
  std::string choose = "1", top = "8";
};

Json ranking_json(const std::vector<Estimate>& list, const Inputs& in) {
  Json rows = Json::array();
  for (const Estimate& e : list) rows.push_back(estimate_json(e, in.model, in.cluster, in.workload));
  return rows;
}

Json search_json(const SearchResult& r) {
  Json pruned = Json::object();
  for (const auto& [reason, count] : r.pruned) pruned[reason] = count;
  return {{"space", r.space},         {"evaluated", r.evaluated},       {"pruned", pruned},
          {"simulated", r.simulated}, {"seconds", r.seconds.value}, {"proven_optimal", r.proven_optimal}};
}

std::string search_line(const SearchResult& r) {
  std::string pruned;
  for (const auto& [reason, count] : r.pruned)
    pruned += fmt::format("{}{} {}", pruned.empty() ? "" : " · ", grouped(count), reason);
  return fmt::format("searched {} combinations in {}   ({} estimated, {} simulated{}{})\n", grouped(r.space),
                     seconds_text(r.seconds), grouped(r.evaluated), grouped(r.simulated),
                     pruned.empty() ? "" : "; ruled out: ", pruned);
}

std::string ranking_text(const std::vector<Estimate>& list, std::size_t top) {
  std::vector<std::vector<std::string>> rows;
  for (std::size_t i = 0; i < list.size() && i < top; ++i) {
    const Estimate& e = list[i];
    rows.push_back({fmt::format("#{}", i + 1), describe(e.strategy), seconds_text(e.time.step),
                    short_rate(e.tokens_per_s), e.mfu < 0 ? "n/a" : fmt::format("{:.1f} %", 100 * e.mfu),
                    bytes_text(e.memory.peak), bytes_text(e.memory.capacity - e.memory.peak)});
  }
  return table({{"", Align::left}, {"strategy", Align::left}, {"step"}, {"tok/s"}, {"MFU"}, {"peak"}, {"free"}}, rows);
}

Exit report_nothing(const Inputs& in, const Limits& limits, const SearchResult& r, bool json) {
  const std::vector<Relaxation> relaxed = relaxations(in, limits, r.closest);
  std::string hint;
  if (!r.closest.empty()) {
    const Estimate& e = r.closest.front();
    hint = fmt::format("closest: {} needs {} per device, {} usable ({} over)\n", describe(e.strategy),
                       bytes_text(e.memory.peak), bytes_text(e.memory.capacity),
                       bytes_text(e.memory.peak - e.memory.capacity));
  }
  if (r.closest.empty()) {
    hint += "every combination is ruled out before memory is looked at; loosen what you fixed:";
    for (const auto& [reason, count] : r.pruned) hint += fmt::format(" {} by {},", grouped(count), reason);
    hint.back() = ' ';
  } else if (relaxed.empty()) {
    const Memory& m = r.closest.front().memory;
    const std::string smaller = largest_model_that_fits(in, r.closest);
    hint += fmt::format("weights, gradients and optimizer alone take {}, so no shorter sequence or recomputation helps",
                        bytes_text(m.weights + m.gradients + m.optimizer));
    if (!smaller.empty()) hint += fmt::format("\nthe largest built-in model that fits is {}", smaller);
  } else {
    hint += "any one of these makes it fit:";
    for (const Relaxation& x : relaxed)
      hint += fmt::format("\n  {:<28} -> {} with {}", x.change, bytes_text(x.result.memory.peak),
                          describe(x.result.strategy));
  }
  const Error error("E0301", Exit::nothing_fits,
                    fmt::format("no strategy fits {} on {}", in.model.name, in.cluster.name), hint);
  if (!json) throw error;
  Json changes = Json::array();
  for (const Relaxation& x : relaxed)
    changes.push_back({{"change", x.change}, {"result", estimate_json(x.result, in.model, in.cluster, in.workload)}});
  std::cerr << "error[E0301]: " << error.message << '\n';
  print_document({{"schema", "llmplan.tune/1"},
                  {"best", nullptr},
                  {"ranking", Json::array()},
                  {"pareto", Json::array()},
                  {"search", search_json(r)},
                  {"plan", nullptr},
                  {"closest", ranking_json(r.closest, in)},
                  {"relaxations", changes}});
  return Exit::nothing_fits;
}

// Predicted from the simulated program, or in closed form where llmplan has no program.
Plan plan_of(const Inputs& in, const Estimate& e) {
  Plan plan{.model = in.model, .cluster = in.cluster, .workload = in.workload, .strategy = e.strategy, .prediction = {}, .digest = {}};
  if (!in.runtime && why_not_lowerable(in.model, in.workload, e.strategy).empty()) {
    predict(plan);
    return plan;
  }
  plan.strategy.layers_per_stage = layer_split(e.strategy, in.model.num_hidden_layers);
  plan.prediction = {e.time.step, e.tokens_per_s, e.tflops_per_device, e.mfu, e.memory.peak - e.memory.reserve, e.memory.peak};
  return plan;
}

Exit tune(const Options& options, bool json) {
  const Inputs in = read_inputs(options.typed);
  const Limits limits = read_limits(options.typed);
  const std::int64_t choose = read_integer("--choose", options.choose, 1, 1000);
  const std::int64_t top = read_integer("--top", options.top, 1, 1000);
  std::cerr << inputs_header(in);
  const SearchResult result = search(in.model, in.cluster, in.workload, limits, in.runtime ? &*in.runtime : nullptr);
  std::cerr << search_line(result);
  if (result.ranking.empty()) return report_nothing(in, limits, result, json);
  if (choose > static_cast<std::int64_t>(result.ranking.size()))
    throw Error("E0121", Exit::usage, fmt::format("--choose {}: only {} strategies fit", choose, result.ranking.size()),
                "choose one of the ranking, 1 is the best");

  const Estimate& best = result.ranking[static_cast<std::size_t>(choose - 1)];
  const Plan plan = plan_of(in, best);
  write_plan(options.out, plan);
  if (json) {
    print_document({{"schema", "llmplan.tune/1"},
                    {"best", estimate_json(best, in.model, in.cluster, in.workload)},
                    {"ranking", ranking_json(result.ranking, in)},
                    {"pareto", ranking_json(result.pareto, in)},
                    {"search", search_json(result)},
                    {"plan", options.out}});
    return Exit::ok;
  }
  std::cout << ranking_text(result.ranking, static_cast<std::size_t>(top)) << uncertainty_text(uncertainty_of(in, best), best)
            << fmt::format("wrote {}   {}{}\n", options.out, plan_line(plan), plan.digest.empty() ? "" : "   digest " + plan.digest)
            << fmt::format("{} step {}, {} tok/s, arena {}\n", plan.digest.empty() ? "estimated" : "simulated", seconds_text(plan.prediction.step),
                           short_rate(plan.prediction.tokens_per_s), bytes_text(plan.prediction.arena));
  if (plan.digest.empty())
    std::cout << "it can be estimated, not yet simulated or run: " << (in.runtime ? "the runtime is not llmplan's own" : why_not_lowerable(in.model, in.workload, plan.strategy)) << '\n';
  else if (in.cluster.device.cpu)
    std::cout << fmt::format("next:  llmplan run {} --data FILE\n", options.out);
  else
    std::cout << fmt::format("next:  llmplan simulate {}\n", options.out);
  return Exit::ok;
}

}  // namespace

void add_tune(CLI::App& app, Session& session) {
  CLI::App* sub = app.add_subcommand("tune", "search strategies, write the best plan");
  auto options = std::make_shared<Options>();
  add_model_and_cluster(*sub, options->typed);
  sub->add_option("-o,--out", options->out, "where to write the plan (default: plan.json)")->type_name("FILE");
  sub->add_option("--choose", options->choose, "write the N-th of the ranking instead of the best")->type_name("N");
  sub->add_option("--top", options->top, "how many of the ranking to print (default: 8)")->type_name("N");
  add_workload(*sub, options->typed);
  add_limits(*sub, options->typed);
  sub->callback([options, &session] {
    session.action = [options, &session] { return tune(*options, session.json); };
  });
}

}  // namespace llmplan::cli
