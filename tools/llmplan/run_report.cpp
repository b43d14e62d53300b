#include "tools/llmplan/run_report.h"

#include <algorithm>
#include <cmath>

#include <fmt/format.h>

#include "tools/llmplan/format.h"
#include "tools/llmplan/table.h"

namespace llmplan::cli {
namespace {

std::string difference(double predicted, double measured) {
  return predicted > 0 && measured > 0 ? percent_text(measured / predicted - 1) : "";
}

}  // namespace

std::string report_text(const RunReport& r, const std::string& directory) {
  const Prediction &p = r.predicted, &m = r.measured;
  const auto mfu = [](double x) { return x < 0 ? std::string("n/a") : fmt::format("{:.1f} %", 100 * x); };
  const auto tflops = [](double x) { return fmt::format("{:.3g}", x); };
  std::string text = fmt::format("run {}   {}   {} steps · {} tokens\n\n", r.stopped ? "stopped" : "complete", directory,
                                 grouped(r.steps), grouped(r.tokens));
  text += table({{"", Align::left}, {"predicted"}, {"measured"}, {"diff"}},
                {{"step (median)", seconds_text(p.step), seconds_text(m.step), difference(p.step.value, m.step.value),
                  fmt::format("p5 {}, p95 {}", seconds_text(r.p5_step), seconds_text(r.p95_step))},
                 {"tokens/s", short_rate(p.tokens_per_s), short_rate(m.tokens_per_s), difference(p.tokens_per_s, m.tokens_per_s)},
                 {"model TFLOP/s per device", tflops(p.tflops_per_device), tflops(m.tflops_per_device),
                  difference(p.tflops_per_device, m.tflops_per_device), "causal attention"},
                 {"MFU", mfu(p.mfu), mfu(m.mfu), "", m.mfu < 0 ? "no peak is known for this CPU: llmplan calibrate measures one" : ""},
                 {"arena per rank", bytes_text(p.arena), bytes_text(m.arena), difference(static_cast<double>(p.arena.value), static_cast<double>(m.arena.value)),
                  p.arena == m.arena ? "to the byte" : ""},
                 {"peak memory", bytes_text(p.peak_memory), bytes_text(m.peak_memory),
                  difference(static_cast<double>(p.peak_memory.value), static_cast<double>(m.peak_memory.value))}});
  if (!r.per_op.empty()) {
    std::vector<OpKindTime> kinds = r.per_op;
    std::sort(kinds.begin(), kinds.end(), [](const auto& a, const auto& b) { return a.measured > b.measured; });
    Seconds total{};
    for (const OpKindTime& k : kinds) total += k.measured;
    std::vector<std::vector<std::string>> rows;
    for (const OpKindTime& k : kinds)
      rows.push_back({k.kind, seconds_text(k.predicted), seconds_text(k.measured),
                      difference(k.predicted.value, k.measured.value),
                      total.value > 0 ? fmt::format("{:.1f} %", 100 * (k.measured / total)) : ""});
    text += "\n" + table({{"seconds of one step, per op", Align::left}, {"predicted"}, {"measured"}, {"diff"}, {"share"}}, rows);
  }
  text += fmt::format("\n loss           {:.4f} -> {:.4f}", r.first_loss, r.last_loss);
  if (r.held_out_loss >= 0)
    text += fmt::format("   held-out {:.4f} nats/token ({:.3f} bits)", r.held_out_loss, r.held_out_loss / std::log(2.0));
  text += fmt::format("\n device         {}\n", r.device);
  if (!r.setup.device.empty()) text += fmt::format(" ranks          {}\n", describe(r.setup));
  if (const std::string warning = caution(r.setup); !warning.empty()) text += fmt::format(" caution        {}\n", warning);
  for (const auto& [name, version] : r.versions) text += fmt::format(" {:<14} {}\n", name, version);
  text += fmt::format(" files          {0}/metrics.jsonl  {0}/report.json\n", directory);
  return text;
}

}  // namespace llmplan::cli
