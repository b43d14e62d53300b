// llmplan why-not PLAN tp=3: which rule forbids a setting, or what it would cost.
#include <cmath>
#include <iostream>
#include <optional>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "costmodel/estimate.h"
#include "costmodel/profiles/profiles.h"
#include "tools/llmplan/commands.h"
#include "tools/llmplan/documents.h"
#include "tools/llmplan/format.h"
#include "tools/llmplan/plan_io.h"
#include "tools/llmplan/strategy_errors.h"
#include "tools/llmplan/strategy_fields.h"

namespace llmplan::cli {
namespace {

Strategy changed(const Plan& plan, const std::vector<std::string>& settings) {
  Strategy s = plan.strategy;
  bool shape = false, dp_given = false;
  for (const std::string& setting : settings) {
    const std::size_t equals = setting.find('=');
    if (equals == std::string::npos)
      throw Error("E0121", Exit::usage, fmt::format("'{}' is not a setting", setting), "write it as name=value, for example tp=3");
    const std::string name = setting.substr(0, equals);
    const StrategyField* field = find_field(name);
    if (field == nullptr) {
      std::vector<std::string> names;
      for (const StrategyField& f : strategy_fields()) names.push_back(f.name);
      const auto close = nearest(name, names, 1);
      throw Error("E0121", Exit::usage, fmt::format("a strategy has no '{}'", name),
                  fmt::format("{}it has: {}", close.empty() ? "" : fmt::format("did you mean {}?  ", close[0]), fmt::join(names, " ")));
    }
    field->set(s, field->name, setting.substr(equals + 1));
    if (field->name == "pp" || field->name == "vpp") s.layers_per_stage.clear();
    shape = shape || field->name == "tp" || field->name == "pp" || field->name == "cp";
    dp_given = dp_given || field->name == "dp";
  }
  if (s.tp == 1) s.sp = false;
  // On a cluster the same devices are used: data parallelism makes up for the change.
  const std::int64_t rest = s.tp * s.pp * s.cp;
  if (!plan.cluster.device.cpu && shape && !dp_given && plan.cluster.devices() % rest == 0) s.dp = plan.cluster.devices() / rest;
  return s;
}

struct Part { const char* name; double seconds; };  // how much longer, by component
std::vector<Part> differences(const Time& now, const Time& other) {
  return {{"compute", (other.compute - now.compute).value},   {"tensor-parallel communication", (other.tp_comm - now.tp_comm).value},
          {"context-parallel communication", (other.cp_comm - now.cp_comm).value},
          {"expert-parallel communication", (other.ep_comm - now.ep_comm).value},
          {"data-parallel communication", (other.dp_comm - now.dp_comm).value},
          {"pipeline communication", (other.pp_comm - now.pp_comm).value}, {"pipeline bubble", (other.bubble - now.bubble).value},
          {"optimizer", (other.optimizer - now.optimizer).value}, {"host", (other.host - now.host).value}};
}

Json base_document(const Strategy& s, const Workload& w) {
  return {{"schema", "llmplan.why_not/1"}, {"strategy", strategy_json(s, w)}, {"name", describe(s)}};
}

Exit why_not(const std::string& file, const std::vector<std::string>& settings, bool json) {
  const Plan plan = read_plan(file);
  const Strategy s = changed(plan, settings);
  const std::string asked = fmt::format("{}", fmt::join(settings, " "));
  Json document = base_document(s, plan.workload);
  const auto other = estimate(plan.model, plan.cluster, plan.workload, s);
  if (const auto* no = std::get_if<Infeasible>(&other)) {
    document.update({{"possible", false}, {"fits", false}, {"constraint", no->constraint}, {"reason", no->reason}, {"hint", no->hint}});
    if (json) print_document(document);
    else std::cout << fmt::format("{} cannot work: {}\n  {}\n", asked, no->reason, no->hint);
    return Exit::ok;
  }
  const auto current = estimate(plan.model, plan.cluster, plan.workload, plan.strategy);
  if (const auto* no = std::get_if<Infeasible>(&current)) throw to_error(*no);
  const Estimate &now = std::get<Estimate>(current), &then = std::get<Estimate>(other);
  const double ratio = then.time.step / now.time.step - 1;
  const std::int64_t memory = then.memory.peak.value - now.memory.peak.value;
  Json parts = Json::object();
  for (const Part& p : differences(now.time, then.time)) parts[p.name] = p.seconds;
  document.update({{"possible", true}, {"fits", then.fits}, {"reason", then.reason.empty() ? Json(nullptr) : Json(then.reason)},
                   {"step", then.time.step.value}, {"step_of_plan", now.time.step.value}, {"slower", ratio},
                   {"peak", then.memory.peak.value}, {"peak_of_plan", now.memory.peak.value}, {"capacity", then.memory.capacity.value},
                   {"difference", parts}});
  if (json) {
    print_document(document);
    return Exit::ok;
  }
  if (s == plan.strategy) {
    std::cout << fmt::format("{} is what the plan has ({})\n", asked, describe(s));
    return Exit::ok;
  }
  if (!then.fits)
    std::cout << fmt::format("{} does not fit: {} needs {} per device, {} usable ({} over)\n", asked, describe(s),
                             bytes_text(then.memory.peak), bytes_text(then.memory.capacity),
                             bytes_text(then.memory.peak - then.memory.capacity));
  else
    std::cout << fmt::format("{} is possible and estimated {}: {} vs {} ({})\n", asked,
                             ratio > 0.005 ? "slower" : ratio < -0.005 ? "faster" : "about equal",
                             seconds_text(then.time.step), seconds_text(now.time.step), percent_text(ratio));
  for (const Part& p : differences(now.time, then.time))
    if (std::abs(p.seconds) > 0.002 * now.time.step.value)
      std::cout << fmt::format("  {} {:<32} {}\n", p.seconds > 0 ? "+" : "-", p.name, seconds_text({std::abs(p.seconds)}));
  std::cout << fmt::format("  {} {:<32} {} ({} instead of {})\n", memory >= 0 ? "+" : "-", "memory per device",
                           bytes_text({std::abs(memory)}), bytes_text(then.memory.peak), bytes_text(now.memory.peak));
  std::cout << fmt::format("  plan: {}\n  this: {}\n", describe(plan.strategy), describe(s));
  return Exit::ok;
}

}  // namespace

void add_why_not(CLI::App& app, Session& session) {
  CLI::App* sub = app.add_subcommand("why-not", "why a setting is not in the plan: a rule, or what it costs");
  auto plan = std::make_shared<std::string>();
  auto settings = std::make_shared<std::vector<std::string>>();
  sub->add_option("PLAN", *plan, "what llmplan tune wrote")->required();
  sub->add_option("SETTING", *settings, "name=value, such as tp=3 or recompute=full")->required();
  sub->callback([plan, settings, &session] {
    session.action = [plan, settings, &session] { return why_not(*plan, *settings, session.json); };
  });
}

}  // namespace llmplan::cli
