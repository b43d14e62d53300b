// Rows against predictions, and what is left of the differences.
#include "costmodel/validate.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <exception>

#include "costmodel/ranking.h"
#include "costmodel/words.h"

namespace llmplan {
namespace {

bool failed(const Case& c) { return c.outcome == "oom" || c.outcome == "oom_or_crash"; }

std::variant<FlopsConvention, std::string> convention(const Case& c, const BlankCells& blank) {
  std::string word = lower(c.tflops_convention);
  if (!word.empty() && word.back() == '?') word.pop_back();  // the transcriber was not sure
  if (word.empty()) return blank.flops;
  if (word == "model" || word == "model_full") return FlopsConvention::model_full;
  if (word == "model_causal" || word == "causal") return FlopsConvention::model_causal;
  if (word == "hardware_with_recompute" || word == "hardware") return FlopsConvention::hardware_recompute;
  if (word == "6n" || word == "palm") return FlopsConvention::six_n;
  return "unknown tflops_convention '" + c.tflops_convention + "'";
}

// torchtitan and nanotron print GiB under the label GB.
std::variant<double, std::string> measured_bytes(const Case& c) {
  const std::string kind = lower(c.memory_kind);
  std::string unit = lower(c.memory_unit);
  std::erase(unit, ' ');
  if (unit.ends_with("ib?")) unit.pop_back();
  if (contains(kind, "analytical")) return "the memory is calculated, not measured";
  if (contains(kind, "activation_pct")) return *c.peak_memory / 100;
  if (contains(kind, "pct") || unit == "%") return "the memory is a percentage";
  double scale = 0;
  if (unit == "gib" || unit == "gb(label)" || unit == "gb?" || unit == "g") scale = 1024.0 * 1024 * 1024;
  else if (unit == "gb") scale = 1e9;
  else if (unit == "mib" || unit == "mb(label)" || unit == "mb?") scale = 1024.0 * 1024;
  else if (unit == "mb") scale = 1e6;
  else if (unit == "kib") scale = 1024;
  else if (unit == "bytes" || unit == "byte" || unit == "b") scale = 1;
  else return unit.empty() ? "'memory_unit' is blank" : "unknown memory_unit '" + c.memory_unit + "'";
  return *c.peak_memory * scale;
}

// What the source's instrument would have shown: frameworks report what they allocated, or what their allocator
// holds; the driver's tools everything on the device.
double predicted_bytes(const Case& c, const Estimate& e) {
  const std::string kind = lower(c.memory_kind);
  const Memory& m = e.memory;
  Bytes bytes = m.reserved();
  if (contains(kind, "smi") || contains(kind, "nvml") || contains(kind, "device")) bytes = bytes + m.reserve;
  else if (contains(kind, "alloc") || contains(kind, "active")) bytes = m.allocated();
  return static_cast<double>(bytes.value);
}

}  // namespace

std::variant<double, std::string> measured_step(const Case& c, const ValidationData& data, const Setup& s) {
  if (c.step_time_s) return *c.step_time_s;
  const double devices = static_cast<double>(s.strategy.devices());
  if (c.tokens_per_s_per_device) {
    const double tokens = static_cast<double>(s.workload.global_batch) * static_cast<double>(s.workload.seq);
    return tokens / (*c.tokens_per_s_per_device * devices);
  }
  if (!c.tflops_per_device && !c.mfu) return "no time is measured";
  const auto blank = data.blank_cells.find(resolve(c.runtime, data.runtime_aliases));
  auto count = convention(c, blank == data.blank_cells.end() ? BlankCells{} : blank->second);
  if (const auto* why = std::get_if<std::string>(&count)) return *why;
  auto& counted = std::get<FlopsConvention>(count);
  double rate = 0;  // FLOP/s per device
  if (c.tflops_per_device) {
    rate = *c.tflops_per_device * 1e12;
  } else {
    const auto peak = s.cluster.device.peak.find(s.workload.precision);
    if (peak == s.cluster.device.peak.end()) return "only MFU is measured, and the device's peak is not known";
    rate = *c.mfu * peak->second.value;
    // MFU never counts recomputation; with it, the figure would be HFU.
    if (counted == FlopsConvention::hardware_recompute) counted = FlopsConvention::model_full;
  }
  return counted_flops(counted, s.model, s.workload, s.strategy).value / (rate * devices);
}

Flops counted_flops(FlopsConvention convention, const ModelConfig& m, const Workload& w, const Strategy& s) {
  const double seq = static_cast<double>(sequence_length(m, w));
  const double tokens = static_cast<double>(w.global_batch) * seq;
  const ForwardFlops f = forward_flops(m, sequence_length(m, w));
  const double layers = f.attention_linears + f.mlp + f.attention_full;  // per token, forward
  switch (convention) {
    case FlopsConvention::model_full: return {3 * tokens * (layers + f.head)};
    case FlopsConvention::model_causal: return step_flops(m, w, s).model_causal;
    case FlopsConvention::hardware_recompute: return {tokens * (4 * layers + 3 * f.head)};
    case FlopsConvention::six_n:
    case FlopsConvention::six_n_no_embedding: {
      double n = static_cast<double>(active_parameters(m));
      if (convention == FlopsConvention::six_n_no_embedding && !m.tie_word_embeddings)
        n -= static_cast<double>(m.vocab_size * m.hidden_size);
      return {tokens * (6 * n + 3 * f.attention_full)};  // 12·L·h·s is three times the forward pass
    }
  }
  return {};
}

// A row whose memory is a share of activations (memory_kind activation_pct): those of the fullest stage, in percent of
// the same run without sequence parallelism and recomputation. Such rows come from formulas, so they need not say how
// many devices and sequences there are: one data-parallel rank and a full pipeline will do. Korthikanti et al. 2022's
// figure 7 has its percentage in the notes, as act_pct=.
static Case activation_share(Case c) {
  const std::size_t at = c.notes.find("act_pct=");
  if (!c.peak_memory && at != std::string::npos) c.peak_memory = std::strtod(c.notes.c_str() + at + 8, nullptr);
  if (!c.n_devices) c.n_devices = c.tp.value_or(1) * c.pp.value_or(1) * c.cp.value_or(1) * c.dp.value_or(1);
  if (!c.global_batch) c.global_batch = c.micro_batch.value_or(1) * c.pp.value_or(1) * c.dp.value_or(1);
  return c;
}
static double predicted_share(const Setup& s, const Estimate& e) {
  Setup whole = s;
  whole.strategy.sp = false, whole.strategy.recompute = Recompute::none;
  const auto all = estimate(whole);
  const Estimate* w = std::get_if<Estimate>(&all);
  return w ? e.memory_per_stage.front().activations / w->memory_per_stage.front().activations : 0;
}

std::vector<Comparison> compare(const Case& row, const ValidationData& data) {
  const bool is_share = contains(lower(row.memory_kind), "activation_pct");
  const Case c = is_share ? activation_share(row) : row;
  Comparison base{c.id, c.source, c.runtime, c.device, "", 0, 0, 0, false, true, "", problem_of(c), strategy_of(c)};
  base.headline = c.quality != "suspect" && c.quality != "memory";
  std::vector<Comparison> out;
  const auto add = [&](const char* metric, double measured, double predicted, double error) {
    out.push_back(base);
    out.back().metric = metric;
    out.back().measured = measured, out.back().predicted = predicted, out.back().error = error;
  };
  const auto skip = [&](const char* metric, const std::string& reason) {
    out.push_back(base);
    out.back().metric = metric, out.back().skipped = true, out.back().reason = reason;
  };

  // What a row has to say, whether or not it can be predicted: a run that failed has no time.
  const bool analytical = is_share || contains(lower(c.memory_kind), "analytical");  // no run at all
  const bool has_time = c.step_time_s || c.tokens_per_s_per_device || c.tflops_per_device || c.mfu;
  const bool wants_time = has_time || (!failed(c) && !is_share);
  std::variant<Setup, std::string> setup;
  std::variant<Estimate, Infeasible> result;
  std::string why;
  try {
    setup = set_up(c, data);
    if (const Setup* s = std::get_if<Setup>(&setup)) result = estimate(*s);
  } catch (const std::exception& e) {  // a mistake of ours with one odd cell must not cost the other rows
    setup = std::string("llmplan failed on this row: ") + e.what();
  }
  const Estimate* e = std::get_if<Estimate>(&result);
  if (const auto* reason = std::get_if<std::string>(&setup)) why = *reason;
  else if (!e) why = std::get<Infeasible>(result).reason;
  if (!why.empty()) {
    if (wants_time) skip("step_time", why);
    if (c.peak_memory) skip("peak_memory", why);
    if (!analytical) skip("oom", why);
    return out;
  }

  const Setup& s = std::get<Setup>(setup);
  base.reason = s.note;
  if (wants_time) {
    const auto measured = measured_step(c, data, s);
    if (const auto* reason = std::get_if<std::string>(&measured)) skip("step_time", *reason);
    else if (const double t = std::get<double>(measured); !(t > 0) || !std::isfinite(t)) skip("step_time", "the measured time or rate is not positive");
    else add("step_time", t, e->time.step.value, e->time.step.value / t - 1);
  }
  if (c.peak_memory) {
    const auto measured = measured_bytes(c);
    if (const auto* reason = std::get_if<std::string>(&measured)) skip("peak_memory", *reason);
    else if (const double b = std::get<double>(measured); !(b > 0)) skip("peak_memory", "the measured memory is not positive");
    else if (is_share) add("peak_memory", b, predicted_share(s, *e), predicted_share(s, *e) / b - 1);
    else add("peak_memory", b, predicted_bytes(c, *e), predicted_bytes(c, *e) / b - 1);
  }
  if (s.cluster.device.memory.value > 0 && !analytical)
    add("oom", failed(c), !e->fits, static_cast<double>(!e->fits) - static_cast<double>(failed(c)));
  return out;
}

const std::string& group_of(const Comparison& c, const std::string& by) {
  return by == "runtime" ? c.runtime : by == "device" ? c.device : c.source;
}

std::vector<Summary> summarize(const std::vector<Comparison>& comparisons, const std::string& by) {
  std::vector<std::string> groups;
  for (const Comparison& c : comparisons)
    if (std::ranges::find(groups, group_of(c, by)) == groups.end()) groups.push_back(group_of(c, by));

  std::vector<Summary> out;
  const auto add = [&](const std::string& name, bool all, const std::string& metric) {
    Summary s;
    s.group = name, s.metric = metric;
    std::vector<double> errors;
    for (const Comparison& c : comparisons) {
      if (c.metric != metric || !(all || group_of(c, by) == name)) continue;
      if (c.skipped) ++s.skipped;
      else if (!c.headline) ++s.left_out;
      else errors.push_back(std::abs(c.error)), s.bias += c.error;
    }
    if (errors.empty() && s.skipped == 0 && s.left_out == 0) return;
    s.n = static_cast<std::int64_t>(errors.size());
    if (!errors.empty()) {
      std::ranges::sort(errors);
      const auto n = errors.size();
      for (double e : errors) s.mape += e / static_cast<double>(n);
      s.bias /= static_cast<double>(n);
      s.median_ape = n % 2 ? errors[n / 2] : (errors[n / 2 - 1] + errors[n / 2]) / 2;
      s.p90_ape = errors[static_cast<std::size_t>(std::ceil(0.9 * static_cast<double>(n))) - 1];  // nearest rank
      s.max_ape = errors.back();
    }
    out.push_back(s);
  };
  for (const char* metric : {"step_time", "peak_memory", "oom"}) {
    for (const std::string& g : groups) add(g, false, metric);
    if (groups.size() > 1) add("all", true, metric);
  }
  return out;
}

}  // namespace llmplan
