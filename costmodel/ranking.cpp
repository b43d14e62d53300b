#include "costmodel/ranking.h"

#include <algorithm>
#include <map>

namespace llmplan {
namespace {

// Pairs ordered alike minus pairs ordered otherwise, over all pairs (tau-a).
double kendall(const std::vector<const Comparison*>& rows) {
  double agree = 0, pairs = 0;
  for (std::size_t i = 0; i < rows.size(); ++i)
    for (std::size_t j = i + 1; j < rows.size(); ++j) {
      const double product = (rows[i]->measured - rows[j]->measured) * (rows[i]->predicted - rows[j]->predicted);
      agree += product > 0 ? 1 : product < 0 ? -1 : 0;
      ++pairs;
    }
  return agree / pairs;
}

Ranking rank(const std::vector<const Comparison*>& rows) {
  const auto better = [](const Comparison* a, const Comparison* b) {
    return a->predicted != b->predicted ? a->predicted < b->predicted : a->measured > b->measured;
  };
  const Comparison& chosen = **std::ranges::min_element(rows, better);
  const Comparison& best = **std::ranges::min_element(rows, {}, [](const Comparison* c) { return c->measured; });
  Ranking r;
  r.problem = chosen.problem;
  r.rows = static_cast<std::int64_t>(rows.size());
  r.chosen = chosen.id, r.best = best.id;
  r.regret = chosen.measured / best.measured - 1;
  r.tau = kendall(rows);
  return r;
}

}  // namespace

std::string problem_of(const Case& c) {
  if (!c.n_devices || !c.layers || !c.hidden || !c.seq || !c.global_batch) return "";
  std::string text = c.source + ' ' + c.runtime + ' ' + c.model + ' ' + c.device + ' ' + c.precision;
  for (const auto& number : {c.layers, c.hidden, c.heads, c.ffn, c.vocab, c.n_experts, c.n_devices, c.seq, c.global_batch})
    text += ' ' + (number ? std::to_string(*number) : "-");
  return text;
}

std::string strategy_of(const Case& c) {
  std::string text;
  for (const auto& number : {c.tp, c.pp, c.vpp, c.cp, c.ep, c.dp, c.zero, c.sp, c.micro_batch})
    text += (number ? std::to_string(*number) : "-") + ' ';
  // One fused attention kernel or another is no strategy; whether there is one at all is.
  return text + c.schedule + ' ' + c.recompute + ' ' + (c.attention == "unfused" ? "unfused" : "fused") + ' ' + c.offload;
}

std::vector<Ranking> rankings(const std::vector<Comparison>& comparisons, const std::string& by) {
  std::vector<std::string> order;
  std::map<std::string, std::map<std::string, const Comparison*>> problems;
  for (const Comparison& c : comparisons) {
    if (c.metric != "step_time" || c.skipped || !c.headline || c.problem.empty()) continue;
    auto& strategies = problems[c.problem];
    if (strategies.empty()) order.push_back(c.problem);
    const Comparison*& row = strategies.try_emplace(c.strategy, &c).first->second;
    if (c.measured < row->measured) row = &c;
  }
  std::vector<Ranking> out;
  for (const std::string& problem : order) {
    std::vector<const Comparison*> rows;
    for (const auto& [strategy, row] : problems[problem]) rows.push_back(row);
    if (rows.size() < 2) continue;
    out.push_back(rank(rows));
    out.back().group = group_of(*rows.front(), by);
  }
  return out;
}

std::vector<RankingSummary> summarize(const std::vector<Ranking>& rankings) {
  std::vector<RankingSummary> out;
  const auto add = [&](RankingSummary& s, const Ranking& r) {
    ++s.problems, s.rows += r.rows;
    s.mean_regret += r.regret, s.tau += r.tau, s.best_chosen += r.regret <= 0;
    s.max_regret = std::max(s.max_regret, r.regret);
  };
  RankingSummary all;
  all.group = "all";
  for (const Ranking& r : rankings) {
    auto found = std::ranges::find(out, r.group, &RankingSummary::group);
    if (found == out.end()) out.emplace_back().group = r.group, found = out.end() - 1;
    add(*found, r);
    add(all, r);
  }
  if (out.size() > 1) out.push_back(all);
  for (RankingSummary& s : out) {
    const auto n = static_cast<double>(s.problems);
    s.mean_regret /= n, s.tau /= n, s.best_chosen /= n;
  }
  return out;
}

}  // namespace llmplan
