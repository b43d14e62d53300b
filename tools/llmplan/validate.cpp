// llmplan validate CASES.csv...: measured training runs held against the estimate. docs/validation.md
#include <algorithm>
#include <iostream>
#include <map>
#include <memory>

#include <fmt/format.h>

#include "costmodel/fit.h"
#include "costmodel/profiles/case_file.h"
#include "costmodel/profiles/residual_file.h"
#include "costmodel/profiles/runtime_profile.h"
#include "costmodel/ranking.h"
#include "executor/file.h"
#include "tools/llmplan/commands.h"
#include "tools/llmplan/documents.h"
#include "tools/llmplan/table.h"

namespace llmplan::cli {
namespace {

struct ValidateOptions {
  std::vector<std::string> files;
  std::string by = "source";
  std::int64_t worst = 0;
  bool fit = false;
  std::string out, residuals;
};

std::vector<Case> read_all(const std::vector<std::string>& files) {
  std::vector<Case> cases;
  for (const std::string& file : files) {
    // Folders of case files may hold tables of other things; alone, such a file is a mistake.
    if (files.size() > 1 && !is_case_file(file)) {
      std::cerr << "note: " << file << " is not a case file (no columns such as runtime, device, n_devices); left out\n";
      continue;
    }
    std::vector<std::string> notes;
    for (Case& c : read_cases(file, &notes)) cases.push_back(std::move(c));
    for (const std::string& note : notes) std::cerr << "note: " << note << '\n';
  }
  return cases;
}

Json value_json(const Comparison& c, double value) {
  if (c.skipped) return nullptr;
  if (c.metric == "oom") return value != 0;
  if (c.metric == "peak_memory") return static_cast<std::int64_t>(value);
  return value;
}

// How many cases each reason costs, or how many rows were read in part only for it, the most first. A row's line
// number is no reason of its own.
std::vector<std::pair<std::string, std::int64_t>> reasons_of(const std::vector<Comparison>& comparisons, bool skipped) {
  std::map<std::string, std::int64_t> reasons;
  const Comparison* before = nullptr;
  for (const Comparison& c : comparisons) {
    const bool same_row = before && before->id == c.id && before->source == c.source;
    before = &c;
    if (c.skipped != skipped || c.reason.empty() || (!skipped && same_row)) continue;
    const std::size_t colon = c.reason.starts_with("line ") ? c.reason.find(": ") : std::string::npos;
    ++reasons[colon == std::string::npos ? c.reason : c.reason.substr(colon + 2)];
  }
  std::vector<std::pair<std::string, std::int64_t>> order(reasons.begin(), reasons.end());
  std::ranges::stable_sort(order, {}, [](const auto& r) { return -r.second; });
  return order;
}

Json ranking_json(const std::vector<Ranking>& rankings) {
  Json problems = Json::array(), summary = Json::array();
  for (const Ranking& r : rankings)
    problems.push_back({{"group", r.group}, {"problem", r.problem}, {"rows", r.rows}, {"chosen", r.chosen}, {"best", r.best},
                        {"regret", r.regret}, {"kendall_tau", r.tau}});
  for (const RankingSummary& s : summarize(rankings))
    summary.push_back({{"group", s.group}, {"problems", s.problems}, {"rows", s.rows}, {"mean_regret", s.mean_regret},
                       {"max_regret", s.max_regret}, {"best_chosen", s.best_chosen}, {"kendall_tau", s.tau}});
  return {{"problems", problems}, {"summary", summary}};
}

Json document(const std::vector<Comparison>& comparisons, const std::vector<Summary>& summaries,
              const std::vector<Ranking>& rankings) {
  Json cases = Json::array(), summary = Json::array(), skipped = Json::array();
  for (const Comparison& c : comparisons)
    cases.push_back({{"id", c.id}, {"source", c.source}, {"runtime", c.runtime}, {"device", c.device},
                     {"metric", c.metric}, {"measured", value_json(c, c.measured)},
                     {"predicted", value_json(c, c.predicted)}, {"error", c.skipped ? Json() : Json(c.error)},
                     {"status", c.skipped ? "skipped" : "ok"}, {"reason", c.skipped ? Json(c.reason) : Json()},
                     {"note", c.skipped || c.reason.empty() ? Json() : Json(c.reason)},
                     {"in_summary", !c.skipped && c.headline}});
  for (const Summary& s : summaries) {
    const auto figure = [&](double x) { return s.n > 0 ? Json(x) : Json(); };
    summary.push_back({{"group", s.group}, {"metric", s.metric}, {"n", s.n}, {"skipped", s.skipped},
                       {"left_out", s.left_out}, {"mape", figure(s.mape)}, {"median_ape", figure(s.median_ape)},
                       {"p90_ape", figure(s.p90_ape)}, {"max_ape", figure(s.max_ape)}, {"bias", figure(s.bias)}});
  }
  for (const auto& [reason, n] : reasons_of(comparisons, true)) skipped.push_back({{"reason", reason}, {"n", n}});
  return {{"schema", "llmplan.validate/1"}, {"cases", cases}, {"summary", summary}, {"skipped", skipped},
          {"ranking", ranking_json(rankings)}};
}

std::string percent(double x) { return fmt::format("{:.1f} %", 100 * x); }
std::string signed_percent(double x) { return fmt::format("{:+.1f} %", 100 * x); }

void print_summary(const std::vector<Summary>& summaries, const std::string& by) {
  const std::pair<const char*, const char*> metrics[] = {
      {"step_time", "step time"}, {"peak_memory", "peak memory"}, {"oom", "out of memory"}};
  for (const auto& [metric, title] : metrics) {
    std::vector<std::vector<std::string>> rows;
    const bool oom = std::string(metric) == "oom";
    for (const Summary& s : summaries) {
      if (s.metric != metric) continue;
      std::vector<std::string> row = {s.group, std::to_string(s.n), std::to_string(s.skipped), std::to_string(s.left_out)};
      if (s.n == 0) {
        row.insert(row.end(), oom ? 2 : 5, "-");
      } else if (oom) {
        row.insert(row.end(), {percent(s.mape), signed_percent(s.bias)});
      } else {
        row.insert(row.end(), {percent(s.mape), percent(s.median_ape), percent(s.p90_ape), percent(s.max_ape),
                               signed_percent(s.bias)});
      }
      rows.push_back(row);
    }
    if (rows.empty()) continue;
    std::vector<Column> columns = {{fmt::format("{}, by {}", title, by), Align::left}, {"rows"}, {"skipped"}, {"left out"}};
    if (oom) columns.insert(columns.end(), {{"wrong"}, {"bias"}});
    else columns.insert(columns.end(), {{"mean |error|"}, {"median"}, {"p90"}, {"max"}, {"bias"}});
    std::cout << table(columns, rows) << '\n';
  }
}

void print_ranking(const std::vector<Ranking>& rankings, const std::string& by) {
  if (rankings.empty()) return;
  std::vector<std::vector<std::string>> rows;
  for (const RankingSummary& s : summarize(rankings))
    rows.push_back({s.group, std::to_string(s.problems), std::to_string(s.rows), fmt::format("{:.2f} %", 100 * s.mean_regret),
                    percent(s.max_regret), percent(s.best_chosen), fmt::format("{:.2f}", s.tau)});
  std::cout << table({{fmt::format("choosing among measured strategies, by {}", by), Align::left}, {"problems"}, {"rows"},
                      {"mean regret"}, {"max"}, {"best chosen"}, {"Kendall tau"}}, rows)
            << '\n';
}

void print_worst(const std::vector<Comparison>& comparisons, std::int64_t n) {
  std::vector<const Comparison*> order;
  for (const Comparison& c : comparisons)
    if (!c.skipped && c.headline && c.error != 0) order.push_back(&c);
  std::ranges::stable_sort(order, {}, [](const Comparison* c) { return -std::abs(c->error); });
  order.resize(std::min(order.size(), static_cast<std::size_t>(n)));
  std::vector<std::vector<std::string>> rows;
  for (const Comparison* c : order) {
    const auto value = [&](double x) {
      return c->metric == "oom"           ? std::string(x != 0 ? "fails" : "fits")
             : c->metric == "peak_memory" ? fmt::format("{:.2f} GiB", x / (1 << 30))
                                          : fmt::format("{:.4g} s", x);
    };
    rows.push_back({c->id, c->runtime, c->device, c->metric, value(c->measured), value(c->predicted),
                    c->metric == "oom" ? "" : signed_percent(c->error)});
  }
  std::cout << table({{"largest errors", Align::left}, {"runtime", Align::left}, {"device", Align::left},
                      {"metric", Align::left}, {"measured"}, {"predicted"}, {"error"}}, rows)
            << '\n';
}

void print_reasons(const char* title, const std::vector<std::pair<std::string, std::int64_t>>& order) {
  constexpr std::size_t kReasons = 40;
  if (order.empty()) return;
  std::cout << title << '\n';
  std::int64_t more = 0;
  for (std::size_t i = 0; i < order.size(); ++i) {
    if (i < kReasons) std::cout << fmt::format("{:6}  {}\n", order[i].second, order[i].first);
    else more += order[i].second;
  }
  if (more > 0) std::cout << fmt::format("{:6}  for {} other reasons (--json names each row's)\n", more, order.size() - kReasons);
  std::cout << '\n';
}

Json fit_json(const Fit& f) {
  Json constants = Json::array(), errors = Json::array();
  for (const Constant& c : f.constants)
    constants.push_back({{"owner", c.owner}, {"kind", c.device ? "device" : "runtime"}, {"name", c.name},
                         {"before", c.before}, {"after", c.after}, {"rows", c.rows}});
  for (const FitError& e : f.errors)
    errors.push_back({{"group", e.source}, {"n", e.n}, {"mape_before", e.before}, {"mape", e.after},
                      {"bias", e.bias_after}, {"mape_left_out", e.left_out}, {"bias_left_out", e.bias_left_out}});
  return {{"constants", constants}, {"errors", errors}};
}

void print_fit(const Fit& f) {
  std::vector<std::vector<std::string>> rows;
  for (const Constant& c : f.constants)
    rows.push_back({c.owner, c.name, fmt::format("{:.4g}", c.before), fmt::format("{:.4g}", c.after), std::to_string(c.rows)});
  std::cout << table({{"constant of", Align::left}, {"name", Align::left}, {"was"}, {"fitted"}, {"rows it moves"}}, rows) << '\n';
  rows.clear();
  for (const FitError& e : f.errors)
    rows.push_back({e.source, std::to_string(e.n), percent(e.before), percent(e.after), signed_percent(e.bias_after),
                    percent(e.left_out), signed_percent(e.bias_left_out)});
  std::cout << table({{"step time, mean |error|", Align::left}, {"rows"}, {"was"}, {"fitted"}, {"bias"}, {"left out"},
                      {"bias"}}, rows)
            << "\nleft out: the fit that has not seen this source; constants that only it informs take the median of others\n";
}

// As profiles are written: runtimes whole, of devices the fitted curves (hardware_profiles/fitted/).
void write_fit(const Fit& f, const std::string& folder) {
  const auto owned = [&](const std::string& name) {
    return std::ranges::any_of(f.constants, [&](const Constant& c) { return c.owner == name && c.before != c.after; });
  };
  for (const auto& [name, runtime] : f.runtimes)
    if (owned(name)) write_file(folder + "/runtimes/" + name + ".yaml", to_yaml(runtime));
  for (const auto& [name, device] : f.devices) {
    if (!owned(name)) continue;
    std::string text = "source: \"llmplan validate --fit\"\n";
    for (const auto& [key, curve] : {std::pair{"gemm_efficiency", &device.gemm_efficiency},
                                     std::pair{"attention_efficiency", &device.attention_efficiency},
                                     std::pair{"memory_efficiency", &device.memory_efficiency}}) {
      if (curve->points.empty()) continue;
      text += fmt::format("{}: [", key);
      for (const auto& [x, y] : curve->points) text += fmt::format("[{:.0f}, {:.4g}], ", x, y);
      text.replace(text.size() - 2, 2, "]\n");
    }
    write_file(folder + "/hardware_profiles/fitted/" + name + ".yaml", text);
  }
  std::cerr << "wrote " << folder << "/runtimes and " << folder << "/hardware_profiles/fitted\n";
}

// How often intervals made without a source hold its runs.
Json coverage_json(const Residuals& residuals) {
  Json all = Json::array();
  for (const auto& [metric, name] : {std::pair{Metric::time, "step_time"}, {Metric::memory, "peak_memory"}})
    for (const Residuals::Coverage& c : residuals.coverage(metric))
      all.push_back({{"group", c.source}, {"metric", name}, {"n", c.n}, {"covered", c.covered}, {"mean_half_width", c.mean_relative}});
  return {{"level", kLevel}, {"groups", all}};
}

void print_coverage(const Residuals& residuals) {
  for (const auto& [metric, name] : {std::pair{Metric::time, "step time"}, {Metric::memory, "peak memory"}}) {
    std::vector<std::vector<std::string>> rows;
    for (const Residuals::Coverage& c : residuals.coverage(metric))
      rows.push_back({c.source, std::to_string(c.n), percent(c.covered), percent(c.mean_relative)});
    std::cout << table({{fmt::format("{:.0f} % intervals of {}", 100 * kLevel, name), Align::left}, {"runs"}, {"held"}, {"mean half-width"}}, rows) << '\n';
  }
}

Residuals write_residuals(const std::string& file, const std::vector<Case>& cases, const ValidationData& data, const std::vector<LeftOut>& left_out) {
  std::vector<Residual> rows = residuals_of(cases, data, left_out);
  write_file(file, to_csv(rows));
  std::cerr << "wrote " << file << '\n';
  return Residuals(std::move(rows));
}

Exit validate(const ValidateOptions& options, bool json) {
  const std::vector<Case> cases = read_all(options.files);
  const ValidationData data = validation_data();
  if (options.fit) {
    if (!options.out.empty())  // before the work, not after it
      for (const char* folder : {"/runtimes", "/hardware_profiles/fitted"}) make_directory(options.out + folder);
    std::cerr << fmt::format("fitting on {} rows, then once more without each source; about a minute\n", cases.size());
    const Fit f = fit(cases, data);
    if (f.errors.empty())
      throw Error("E0130", Exit::usage, "no row of these files has both a measured time and a prediction",
                  "llmplan validate without --fit says why each row is skipped");
    if (!options.out.empty()) write_fit(f, options.out);
    Json document = {{"schema", "llmplan.validate/1"}, {"fit", fit_json(f)}};
    if (!json) print_fit(f);
    if (!options.residuals.empty()) {
      std::vector<LeftOut> left_out;
      for (const RowError& e : f.left_out_rows) left_out.push_back({e.source, e.id, e.error});
      const Residuals residuals = write_residuals(options.residuals, cases, data, left_out);
      if (json) document["coverage"] = coverage_json(residuals);
      else print_coverage(residuals);
    }
    if (json) print_document(document);
    return Exit::ok;
  }
  std::vector<Comparison> comparisons;
  for (const Case& c : cases)
    for (Comparison& comparison : compare(c, data)) comparisons.push_back(std::move(comparison));
  const std::vector<Summary> summaries = summarize(comparisons, options.by);
  const std::vector<Ranking> ranked = rankings(comparisons, options.by);
  Json all = document(comparisons, summaries, ranked);
  if (!options.residuals.empty()) {
    const Residuals residuals = write_residuals(options.residuals, cases, data, {});
    if (json) all["coverage"] = coverage_json(residuals);
    else print_coverage(residuals);
  }
  if (json) {
    print_document(all);
    return Exit::ok;
  }
  print_summary(summaries, options.by);
  print_ranking(ranked, options.by);
  print_reasons("skipped because", reasons_of(comparisons, true));
  print_reasons("predicted, but", reasons_of(comparisons, false));
  if (options.worst > 0) print_worst(comparisons, options.worst);
  std::cout << "error = predicted/measured - 1; left out: rows that their source makes doubtful, or from memory\n"
               "regret: how much slower the strategy predicted fastest ran than the fastest one, of rows that differ in strategy only\n";
  return Exit::ok;
}

}  // namespace

void add_validate(CLI::App& app, Session& session) {
  CLI::App* sub = app.add_subcommand("validate", "predict measured runs and print the errors");
  auto options = std::make_shared<ValidateOptions>();
  sub->add_option("CASES", options->files, "case files (CSV; docs/validation.md lists the columns)")->required();
  sub->add_option("--by", options->by, "group the errors by source, runtime or device")
      ->check(CLI::IsMember({"source", "runtime", "device"}));
  sub->add_option("--worst", options->worst, "also list the N largest errors")->check(CLI::NonNegativeNumber);
  auto* fit = sub->add_flag("--fit", options->fit, "refit the constants of devices and runtimes; print the errors without each source");
  sub->add_option("-o,--out", options->out, "write the fitted profiles to this folder")->needs(fit);
  sub->add_option("--residuals", options->residuals,
                  "write each run's features and errors (with --fit: of the fit without its source), which estimate's intervals rest on")
      ->type_name("FILE");
  sub->callback([&session, options] {
    session.action = [&session, options] { return validate(*options, session.json); };
  });
}

}  // namespace llmplan::cli
