// llmplan estimate MODEL: what strategies cost, side by side.
#include <algorithm>
#include <iostream>
#include <variant>

#include <fmt/format.h>

#include "costmodel/estimate.h"
#include "costmodel/profiles/profiles.h"
#include "costmodel/profiles/runtime_profile.h"
#include "tools/llmplan/candidates.h"
#include "tools/llmplan/commands.h"
#include "tools/llmplan/documents.h"
#include "tools/llmplan/format.h"
#include "tools/llmplan/formulas.h"
#include "tools/llmplan/options.h"
#include "tools/llmplan/states_only.h"
#include "tools/llmplan/strategy_errors.h"
#include "tools/llmplan/strategy_fields.h"
#include "tools/llmplan/strategy_table.h"
#include "tools/llmplan/terminal.h"
#include "tools/llmplan/uncertainty.h"

namespace llmplan::cli {
namespace {

constexpr std::size_t kShown = 24;  // rows without --all

struct Row {
  Strategy strategy;
  std::variant<Estimate, Infeasible> result;
};

std::vector<Row> rows_for(const Inputs& in) {
  std::vector<Row> rows;
  if (in.strategy) {
    rows.push_back({*in.strategy, price(in, *in.strategy)});
    if (const auto* why = std::get_if<Infeasible>(&rows.front().result)) throw to_error(*why);
    return rows;
  }
  for (const Strategy& s : candidates(in.model, in.cluster))
    rows.push_back({s, price(in, s)});
  return rows;
}

void print_json(const Inputs& in, const std::vector<Row>& rows, bool explain) {
  Json strategies = Json::array();
  for (const Row& row : rows) {
    if (const auto* e = std::get_if<Estimate>(&row.result)) {
      strategies.push_back(estimate_json(*e, in.model, in.cluster, in.workload));
      if (explain) strategies.back()["explain"] = formulas_json(formulas(in, *e));
      strategies.back()["flops"]["by_kind"] = flops_json(flops_by_kind(in.model, in.workload, e->strategy));
    } else strategies.push_back(infeasible_json(row.strategy, std::get<Infeasible>(row.result), in.workload));
  }
  print_document({{"schema", "llmplan.estimate/1"},
                  {"model", model_json(in.model)},
                  {"cluster", cluster_json(in.cluster)},
                  {"workload", workload_json(in.workload)},
                  {"strategies", strategies}});
}

// The one that a person would choose; the first if none fits.
const Estimate& fastest_that_fits(const std::vector<const Estimate*>& shown) {
  const Estimate* fastest = nullptr;
  for (const Estimate* s : shown)
    if (s->fits && (!fastest || s->time.step < fastest->time.step)) fastest = s;
  return fastest ? *fastest : *shown.front();
}

void print_footnotes(const Inputs& in, const std::vector<const Estimate*>& shown, std::size_t hidden) {
  std::cout << '\n';
  if (hidden > 0) std::cout << " " << hidden << " more, some of which the model rules out: --all\n";
  if (shown.empty()) return;
  const Estimate& e = *shown.front();
  const double tokens = static_cast<double>(in.workload.seq * in.workload.global_batch);
  std::cout << fmt::format(" * of the dense peak, model FLOPs with causal attention: {} per token ({} counting "
                           "attention in full)\n",
                           flops_text(e.flops.model_causal.value / tokens),
                           flops_text(e.flops.model_full.value / tokens));
  if (e.mfu < 0)
    std::cout << "   n/a: no peak is known for this device (llmplan calibrate measures one)\n";
  if (in.workload.tokens > 0 && in.cluster.device.price_per_hour <= 0)
    std::cout << "   cost: no price is stated (--price, per device and hour, or price_per_hour in the device's profile)\n";
  const Estimate& chosen = fastest_that_fits(shown);
  if (shown.size() > 1) std::cout << fmt::format("\n {}: {}\n", chosen.fits ? "fastest that fits" : "none fits; the first", describe(chosen.strategy));
  std::cout << uncertainty_text(uncertainty_of(in, chosen), chosen);
}

Exit print_text(const Inputs& in, const std::vector<Row>& rows, bool all, bool explain) {
  std::cout << inputs_header(in) << '\n';
  std::vector<const Estimate*> shown;
  std::vector<std::string> illegal;
  std::size_t hidden = 0;
  for (const Row& row : rows) {
    if (const auto* why = std::get_if<Infeasible>(&row.result)) {
      illegal.push_back(fmt::format(" {}: {}", describe(row.strategy), why->reason));
    } else if (all || shown.size() < kShown) {
      shown.push_back(&std::get<Estimate>(row.result));
    } else {
      ++hidden;
    }
  }
  std::cout << strategy_table(in.cluster, shown, width(Output::out));
  if (all && !illegal.empty()) {
    std::cout << "\n not possible for this model\n";
    for (const std::string& line : illegal) std::cout << " " << line << '\n';
  } else {
    hidden += illegal.size();
  }
  print_footnotes(in, shown, hidden);
  if (shown.size() == 1) std::cout << '\n' << estimate_details(in, *shown.front());
  if (explain && !shown.empty()) {
    const Estimate& e = fastest_that_fits(shown);
    std::cout << fmt::format("\n {}\n", e.strategy == shown.front()->strategy && shown.size() == 1 ? "" : describe(e.strategy)) << formulas_text(formulas(in, e));
  }
  std::cout << fmt::format("\n next:  llmplan tune {}{} -o plan.json\n", in.model_text,
                           in.cluster.device.cpu ? "" : " --cluster " + in.cluster.name);
  return Exit::ok;
}

}  // namespace

namespace {

// An architecture that llmplan does not know, whose parameters can still be counted: their memory, then the error.
Inputs read_or_count(const Typed& typed, bool json) {
  try {
    return read_inputs(typed);
  } catch (const Error& e) {
    const std::int64_t parameters = e.code == "E0203" && !json ? counted_parameters(typed.model) : 0;
    if (parameters > 0) {
      const Cluster cluster = read_cluster(typed.cluster);
      const Workload w = read_workload_words(typed, cluster);
      std::cout << states_table(parameters, cluster, read_runtime(w.runtime), w) << std::flush;
    }
    throw;
  }
}

}  // namespace

void add_estimate(CLI::App& app, Session& session) {
  CLI::App* sub = app.add_subcommand("estimate", "memory, FLOPs, communication and time per strategy");
  auto typed = std::make_shared<Typed>();
  auto all = std::make_shared<bool>(false);
  add_model_and_cluster(*sub, *typed);
  add_workload(*sub, *typed);
  add_strategy(*sub, *typed);
  auto explain = std::make_shared<bool>(false);
  sub->add_flag("--explain", *explain, "each figure as its formula with the numbers put in, of the strategy asked for or the fastest that fits");
  sub->add_flag("--all", *all, "every strategy of the list, also those that the model rules out");
  sub->callback([typed, all, explain, &session] {
    session.action = [typed, all, explain, &session] {
      const Inputs in = read_or_count(*typed, session.json);
      const std::vector<Row> rows = rows_for(in);
      if (!session.json) return print_text(in, rows, *all, *explain);
      print_json(in, rows, *explain);
      return Exit::ok;
    };
  });
}

}  // namespace llmplan::cli
