#include "tools/llmplan/strategy_table.h"

#include <algorithm>

#include <fmt/format.h>

#include "costmodel/profiles/profiles.h"
#include "tools/llmplan/documents.h"
#include "tools/llmplan/format.h"
#include "tools/llmplan/strategy_fields.h"
#include "tools/llmplan/table.h"

namespace llmplan::cli {
namespace {

// One unit for a whole table, so that its cells compare at a glance.
struct Unit { const char* name; double bytes; };
Unit unit_for(const std::vector<const Estimate*>& all) {
  double largest = 0;
  for (const Estimate* e : all) largest = std::max(largest, static_cast<double>(e->memory.peak.value));
  return largest >= 4e9 ? Unit{"GiB", 1073741824.0} : Unit{"MiB", 1048576.0};
}

std::string cell(Bytes b, const Unit& unit) {
  return fmt::format("{:.{}f}", static_cast<double>(b.value) / unit.bytes, unit.bytes > 1e9 ? 2 : 1);
}

std::string days_text(double days) {
  if (days < 0) return "-";
  return days >= 100 ? grouped(static_cast<std::int64_t>(days + 0.5)) : fmt::format("{:.1f}", days);
}

std::string label(const std::string& name) { return name.empty() ? "1 device" : name; }

}  // namespace

std::string fits_text(const Estimate& e) {
  if (!e.fits) return "no";
  const double room = 1 - e.memory.peak / e.memory.capacity;
  return room < 0.1 ? "tight" : "yes";
}

// The devices and how they are wired: one line, or one for each type of a mixed cluster.
static std::string cluster_lines(const Cluster& c) {
  if (c.device.cpu) return fmt::format("node    {}   {} cores, {}   ", c.name, c.device.cores, bytes_text(c.device.memory));
  std::string text;
  const auto line = [&](std::int64_t nodes, const Device& d, const Link& intra) {
    text += fmt::format("node    {} x {} x {}   {} each   ", nodes, c.devices_per_node, d.name, bytes_text(d.memory));
    if (c.devices_per_node > 1) text += fmt::format("{} {:.0f} GB/s   ", intra.name, intra.bandwidth.value / 1e9);
  };
  if (c.parts.empty()) line(c.nodes, c.device, c.intra);
  for (std::size_t i = 0; i < c.parts.size(); ++i) {
    if (i > 0) text += '\n';
    line(c.parts[i].nodes, c.parts[i].device, c.parts[i].intra);
  }
  if (c.nodes > 1) text += fmt::format("{} {:.0f} GB/s   ", c.inter.name, c.inter.bandwidth.value / 1e9);
  return text;
}

std::string inputs_header(const Inputs& in) {
  const ModelConfig& m = in.model;
  const Workload& w = in.workload;
  std::string text = fmt::format("model   {}   {} parameters", m.name, short_count(static_cast<double>(parameters(m))));
  if (active_parameters(m) != parameters(m))
    text += fmt::format(", {} active", short_count(static_cast<double>(active_parameters(m))));
  text += fmt::format("   {} + {}\n", precision_name(w.precision), name_of(w.optimizer.kind));
  text += cluster_lines(in.cluster);
  text += in.cluster.device.measured.empty() ? "(from its profile, not calibrated)\n" : "(calibrated)\n";
  text += fmt::format("batch   {} sequences x {} = {} tokens/step   modelled as {}\n", grouped(w.global_batch),
                      grouped(w.seq), grouped(w.global_batch * w.seq), w.runtime);
  return text;
}

std::string strategy_table(const Cluster& cluster, const std::vector<const Estimate*>& all, int width) {
  const Unit unit = unit_for(all);
  const bool wide = width >= 118;
  std::vector<Column> columns = {{"strategy", Align::left}, {"weights"}, {"grads"}, {"optim"}, {"activ."}};
  if (wide) columns.insert(columns.end(), {{"logits"}, {"other"}});
  columns.back().title += " |";  // the bar belongs to the column before it, so that bars stand below each other
  columns.push_back({std::string("peak ") + unit.name});
  columns.insert(columns.end(), {{"fits", Align::left}, {"step"}, {"tok/s"}});
  const bool days = std::any_of(all.begin(), all.end(), [](const Estimate* e) { return e->days >= 0; });
  const bool cost = std::any_of(all.begin(), all.end(), [&](const Estimate* e) { return cost_of(*e, cluster) >= 0; });
  if (days) columns.push_back({"days"});
  if (cost) columns.push_back({"cost"});
  columns.push_back({"MFU*"});

  std::vector<std::vector<std::string>> rows;
  for (const Estimate* e : all) {
    const Memory& m = e->memory;
    std::vector<std::string> row = {label(describe(e->strategy)), cell(m.weights, unit), cell(m.gradients, unit),
                                    cell(m.optimizer, unit), cell(m.activations, unit)};
    if (wide) row.insert(row.end(), {cell(m.logits, unit), cell(m.buffers + m.reserve, unit)});
    row.back() += " |";
    row.push_back(cell(m.peak, unit));
    row.push_back(fits_text(*e));
    const bool timed = e->fits && e->time.step.value > 0;
    row.push_back(timed ? seconds_text(e->time.step) : "-");
    row.push_back(timed ? short_rate(e->tokens_per_s) : "-");
    if (days) row.push_back(timed ? days_text(e->days) : "-");
    if (cost) row.push_back(timed ? short_count(cost_of(*e, cluster)) : "-");
    row.push_back(!timed ? "-" : e->mfu < 0 ? "n/a" : fmt::format("{:.1f}", 100 * e->mfu));
    if (!e->fits)
      row.push_back(fmt::format("{} over {}", bytes_text(m.peak - m.capacity), bytes_text(m.capacity)));
    rows.push_back(row);
  }
  return table(columns, rows);
}

namespace {

std::string time_table(const Estimate& e) {
  std::string text = fmt::format(" time of a step: {}\n", seconds_text(e.time.step));
  const std::pair<const char*, Seconds> parts[] = {
      {"compute", e.time.compute}, {"tp comm", e.time.tp_comm}, {"cp comm", e.time.cp_comm},
      {"ep comm", e.time.ep_comm}, {"dp comm", e.time.dp_comm}, {"pp comm", e.time.pp_comm},
      {"bubble", e.time.bubble},   {"optimizer", e.time.optimizer}, {"host", e.time.host}};
  for (const auto& [name, seconds] : parts)
    if (seconds.value > 0)
      text += fmt::format("   {:<10} {:>9}  {:>5.1f} %\n", name, seconds_text(seconds), 100 * (seconds / e.time.step));
  return text;
}

std::string communication_table(const Estimate& e) {
  std::vector<std::vector<std::string>> rows;
  for (const Communication& c : e.communication)
    rows.push_back({c.group, c.collective, grouped(c.count), bytes_text(c.bytes_per_device),
                    seconds_text(c.seconds), seconds_text(c.exposed_seconds)});
  return table({{"communication", Align::left}, {"collective", Align::left}, {"calls"}, {"bytes/device"},
                {"time"}, {"exposed"}}, rows);
}

// A row per stage; stages that are alike share one.
std::string memory_table(const Estimate& e) {
  const auto same = [](const Memory& a, const Memory& b) {
    return a.weights == b.weights && a.gradients == b.gradients && a.optimizer == b.optimizer && a.activations == b.activations &&
           a.logits == b.logits && a.buffers == b.buffers && a.reserve == b.reserve;
  };
  std::vector<std::vector<std::string>> rows;
  const auto& stages = e.memory_per_stage;
  for (std::size_t i = 0; i < stages.size();) {
    std::size_t end = i + 1;
    while (end < stages.size() && same(stages[i], stages[end])) ++end;
    const Memory& m = stages[i];
    const bool peak = static_cast<int>(i) <= e.memory.peak_stage && e.memory.peak_stage < static_cast<int>(end);
    rows.push_back({end == i + 1 ? std::to_string(i) : fmt::format("{} to {}", i, end - 1), bytes_text(m.weights), bytes_text(m.gradients),
                    bytes_text(m.optimizer), bytes_text(m.activations), bytes_text(m.logits), bytes_text(m.buffers),
                    bytes_text(m.reserve), bytes_text(m.peak), peak ? "the peak, " + peak_moment(e) : ""});
    i = end;
  }
  return table({{"memory of stage", Align::left}, {"weights"}, {"grads"}, {"optim"}, {"activ."}, {"logits"}, {"buffers"}, {"reserve"},
                {"peak"}}, rows);
}

std::string flops_table(const Inputs& in, const Estimate& e) {
  const StepFlops& f = e.flops;
  const FlopsByKind k = flops_by_kind(in.model, in.workload, e.strategy);
  std::string text = fmt::format(" FLOPs of a step: {} causal, {} counting attention in full, {} with recomputation; {:.2f} TFLOP/s per device\n",
                                 flops_text(f.model_causal.value), flops_text(f.model_full.value), flops_text(f.hardware.value),
                                 e.tflops_per_device);
  const std::pair<const char*, Flops> kinds[] = {{"attention's linears", k.attention_linears}, {"attention scores (causal)", k.attention_scores},
                                                 {"MLP or experts", k.mlp}, {"head", k.head}, {"recomputed", k.recomputed}};
  for (const auto& [name, flops] : kinds)
    if (flops.value > 0)
      text += fmt::format("   {:<26} {:>11}  {:>5.1f} %\n", name, flops_text(flops.value), 100 * (flops / f.hardware));
  return text;
}

std::string cost_line(const Inputs& in, const Estimate& e) {
  if (e.days < 0) return "";
  const double hours = e.days * 24 * static_cast<double>(e.strategy.devices());
  std::string text = fmt::format(" {} tokens: {}, {} device-hours", short_count(static_cast<double>(in.workload.tokens)),
                                 duration_text({e.days * 86400}), grouped(static_cast<std::int64_t>(hours + 0.5)));
  if (const double cost = cost_of(e, in.cluster); cost >= 0)
    text += fmt::format(" at {:g} each: {}", in.cluster.device.price_per_hour, grouped(static_cast<std::int64_t>(cost + 0.5)));
  return text + '\n';
}

}  // namespace

std::string peak_moment(const Estimate& e) {
  return std::string(e.memory.moment);
}

std::string estimate_details(const Inputs& in, const Estimate& e) {
  std::string text = time_table(e) + '\n';
  if (!e.communication.empty()) text += communication_table(e) + '\n';
  text += memory_table(e);
  if (e.memory.cached.value > 0)
    text += fmt::format(" of this the framework would report {} as allocated, and {} as reserved with its allocator's cache\n",
                        bytes_text(e.memory.allocated()), bytes_text(e.memory.reserved()));
  text += '\n' + flops_table(in, e);
  if (const std::string cost = cost_line(in, e); !cost.empty()) text += '\n' + cost;
  return text;
}

}  // namespace llmplan::cli
