// llmplan estimate MODEL: what strategies cost, side by side.
#include <algorithm>
#include <iostream>
#include <variant>

#include <fmt/format.h>

#include "costmodel/estimate.h"
#include "costmodel/profiles/profiles.h"
#include "tools/llmplan/candidates.h"
#include "tools/llmplan/commands.h"
#include "tools/llmplan/documents.h"
#include "tools/llmplan/format.h"
#include "tools/llmplan/options.h"
#include "tools/llmplan/strategy_errors.h"
#include "tools/llmplan/strategy_fields.h"
#include "tools/llmplan/strategy_table.h"
#include "tools/llmplan/terminal.h"

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

void print_json(const Inputs& in, const std::vector<Row>& rows) {
  Json strategies = Json::array();
  for (const Row& row : rows) {
    if (const auto* e = std::get_if<Estimate>(&row.result)) strategies.push_back(estimate_json(*e, in.workload));
    else strategies.push_back(infeasible_json(row.strategy, std::get<Infeasible>(row.result), in.workload));
  }
  print_document({{"schema", "llmplan.estimate/1"},
                  {"model", model_json(in.model)},
                  {"cluster", cluster_json(in.cluster)},
                  {"workload", workload_json(in.workload)},
                  {"strategies", strategies}});
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
  if (e.uncertainty_time >= 0)
    std::cout << fmt::format(" Time within about {:.0f} %, memory within {:.0f} %.\n", 100 * e.uncertainty_time,
                             100 * std::max(0.0, e.uncertainty_memory));
}

Exit print_text(const Inputs& in, const std::vector<Row>& rows, bool all) {
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
  std::cout << strategy_table(shown, width(Output::out));
  if (all && !illegal.empty()) {
    std::cout << "\n not possible for this model\n";
    for (const std::string& line : illegal) std::cout << " " << line << '\n';
  } else {
    hidden += illegal.size();
  }
  print_footnotes(in, shown, hidden);
  if (shown.size() == 1) std::cout << '\n' << estimate_details(*shown.front());
  std::cout << fmt::format("\n next:  llmplan tune {}{} -o plan.json\n", in.model_text,
                           in.cluster.device.cpu ? "" : " --cluster " + in.cluster.name);
  return Exit::ok;
}

}  // namespace

void add_estimate(CLI::App& app, Session& session) {
  CLI::App* sub = app.add_subcommand("estimate", "memory, FLOPs, communication and time per strategy");
  auto typed = std::make_shared<Typed>();
  auto all = std::make_shared<bool>(false);
  add_model_and_cluster(*sub, *typed);
  add_workload(*sub, *typed);
  add_strategy(*sub, *typed);
  sub->add_flag("--all", *all, "every strategy of the list, also those that the model rules out");
  sub->callback([typed, all, &session] {
    session.action = [typed, all, &session] {
      const Inputs in = read_inputs(*typed);
      const std::vector<Row> rows = rows_for(in);
      if (!session.json) return print_text(in, rows, *all);
      print_json(in, rows);
      return Exit::ok;
    };
  });
}

}  // namespace llmplan::cli
