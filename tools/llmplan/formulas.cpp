#include "tools/llmplan/formulas.h"

#include <algorithm>
#include <cmath>

#include <fmt/format.h>

#include "costmodel/pipeline.h"
#include "costmodel/profiles/runtime_profile.h"
#include "costmodel/runtime_case.h"
#include "tools/llmplan/format.h"

namespace llmplan::cli {
namespace {

// A number that remembers how it came about. `rank`: 3 a leaf, 2 a product or quotient, 1 a sum, which those bracket.
struct Term {
  double value = 0;
  std::string words, numbers, text;
  int rank = 3;
};

std::string short_number(double x) {
  if (x == std::floor(x) && std::abs(x) < 1e15) return grouped(static_cast<std::int64_t>(x));
  return fmt::format("{:.5g}", x);
}

Term leaf(double value, const std::string& words) { return {value, words, fmt::format("{}", value), short_number(value), 3}; }

Term joined(const Term& a, const Term& b, const char* sign, const char* shown, double value, int rank) {
  const auto part = [&](const Term& t, const std::string& s, bool right) {
    return t.rank < rank || (right && t.rank == rank && (*sign == '/' || *sign == '-')) ? "(" + s + ")" : s;
  };
  Term out{value, {}, {}, {}, rank};
  out.words = part(a, a.words, false) + shown + part(b, b.words, true);
  out.numbers = part(a, a.numbers, false) + " " + sign + " " + part(b, b.numbers, true);
  out.text = part(a, a.text, false) + shown + part(b, b.text, true);
  return out;
}
Term operator+(const Term& a, const Term& b) { return joined(a, b, "+", " + ", a.value + b.value, 1); }
Term operator*(const Term& a, const Term& b) { return joined(a, b, "*", " × ", a.value * b.value, 2); }
Term operator/(const Term& a, const Term& b) { return joined(a, b, "/", " / ", a.value / b.value, 2); }

class Formulas {
 public:
  // What the formula leaves out of the field is added by name.
  void add(const std::string& field, double value, Term t, const std::string& rest) {
    const double left = value - t.value;
    const double slack = std::abs(value) * 1e-12 + (field.starts_with("memory") ? 0.5 : 0);  // bytes are rounded
    if (std::abs(left) > slack) t = t.value == 0 ? leaf(left, rest) : t + leaf(left, rest);
    list.push_back({field, value, t.words, t.numbers, t.text});
  }
  std::vector<Formula> list;
};

double d(std::int64_t n) { return static_cast<double>(n); }

void memory(Formulas& f, const RuntimeCase& c, const Estimate& e) {
  const Memory& m = e.memory;
  const auto index = static_cast<std::size_t>(std::clamp<int>(m.peak_stage, 0, static_cast<int>(c.stages.size()) - 1));
  const Stage& stage = c.stages[index];
  const StageWeights w = c.weights(stage);
  const Strategy& s = e.strategy;
  // Bytes per parameter follow from the field, so the formula holds for every way of keeping states.
  const auto states = [&](const char* field, Bytes held, int sharded_from) {
    if (held.value == 0) return f.add(std::string("memory.") + field, 0, leaf(0, "held elsewhere"), "");
    const bool sharded = s.zero >= sharded_from && c.shards > 1;
    Term parameters = sharded ? leaf(w.dense, "parameters on this rank") / leaf(c.shards, "zero shards") : leaf(w.dense, "parameters on this rank");
    if (w.experts > 0)
      parameters = parameters + (sharded ? leaf(w.experts, "of experts") / leaf(c.expert_shards(), "zero shards of experts") : leaf(w.experts, "of experts"));
    const double each = std::round(static_cast<double>(held.value) / parameters.value * 4) / 4;
    f.add(std::string("memory.") + field, static_cast<double>(held.value), leaf(each, "bytes") * parameters, "padding and parameters kept otherwise");
  };
  states("weights", m.weights, 3);
  states("gradients", m.gradients, 2);
  states("optimizer", m.optimizer, 1);

  const double flying = s.vpp > 1 ? 0 : d(in_flight(s.schedule, m.peak_stage, s.pp, c.micro_batches));
  Term kept = leaf(0, "");
  const double share = c.recomputed_share(stage);
  const auto layers = [&](std::int64_t n, bool moe, const char* words) {
    if (n == 0) return;
    const double whole = kept_bytes(c.model, c.dims, c.runtime, Recompute::none, moe);
    const double each = share == 0 ? whole : (1 - share) * whole + share * kept_bytes(c.model, c.dims, c.runtime, s.recompute, moe);
    const Term t = leaf(d(n), words) * leaf(each, "bytes that one keeps");
    kept = kept.value == 0 ? t : kept + t;
  };
  if (flying > 0 && !c.runtime.lowered && !s.offload.activations) {
    layers(stage.dense, false, "layers");
    layers(stage.moe, true, "layers of experts");
  }
  const auto held = static_cast<double>(m.activations.value);
  const Term product = kept.value > 0 ? leaf(flying, "micro-batches in flight") * kept : leaf(0, "");
  if (kept.value > 0 && product.value <= held * 1.000001) {
    f.add("memory.activations", held, product, "what else the stage keeps");
  } else {
    const double in_flight_or_1 = std::max(1.0, flying);
    f.add("memory.activations", held, leaf(in_flight_or_1, "micro-batches in flight") * leaf(held / in_flight_or_1, "bytes that each keeps"), "");
  }
  if (m.logits.value > 0) {
    const double logits = c.dims.rows * c.dims.vocab;
    f.add("memory.logits", static_cast<double>(m.logits.value),
          leaf(c.dims.rows, "tokens of a micro-batch") * leaf(c.dims.vocab, "vocabulary of this rank") *
              leaf(static_cast<double>(m.logits.value) / logits, "bytes per logit"), "");
  }
  f.add("memory.buffers", static_cast<double>(m.buffers.value), leaf(0, ""), "communication buffers and what one layer needs while it runs");
  f.add("memory.reserve", static_cast<double>(m.reserve.value), leaf(static_cast<double>(c.cluster.device.reserve.value), "the device's context"),
        "the software's workspaces and fragmentation");
  Term sum = leaf(static_cast<double>(m.weights.value), "weights");
  for (const auto& [bytes, words] : {std::pair{m.gradients, "gradients"}, {m.optimizer, "optimizer"}, {m.activations, "activations"},
                                     {m.logits, "logits"}, {m.buffers, "buffers"}, {m.reserve, "reserve"}})
    if (bytes.value != 0) sum = sum + leaf(static_cast<double>(bytes.value), words);
  f.add("memory.peak", static_cast<double>(m.peak.value), sum, "other");
}

// Of the fullest stage, one micro-batch.
Term layer_seconds(const RuntimeCase& c) {
  const Stage& s = *std::ranges::max_element(c.stages, {}, [](const Stage& x) { return x.layers(); });
  Term sum = leaf(0, "");
  const auto add = [&](std::int64_t n, const LayerPasses& l, const std::string& words) {
    if (n == 0) return;
    Term one = leaf(l.forward.compute(), "seconds forward") + leaf(l.backward.compute(), "backward");
    if (const double share = c.recomputed_share(s); share > 0) one = one + leaf(share, "share") * leaf(l.recompute.compute(), "recomputed");
    const Term all = leaf(d(n), words) * one;
    sum = sum.value == 0 ? all : sum + all;
  };
  add(s.dense, c.dense, "layers");
  add(s.moe, c.moe, "layers of experts");
  return sum;
}

void time(Formulas& f, const RuntimeCase& c, const Estimate& e) {
  const Time& t = e.time;
  const std::pair<const char*, Seconds> parts[] = {{"compute", t.compute}, {"tp_comm", t.tp_comm}, {"cp_comm", t.cp_comm}, {"ep_comm", t.ep_comm},
                                                   {"dp_comm", t.dp_comm}, {"pp_comm", t.pp_comm}, {"bubble", t.bubble}, {"optimizer", t.optimizer},
                                                   {"host", t.host}};
  const Term micro_batches = leaf(d(c.micro_batches), "micro-batches");
  for (const auto& [name, seconds] : parts) {
    const std::string field = std::string("time.") + name;
    if (seconds.value == 0) continue;
    if (field == "time.compute" && !c.runtime.lowered) {
      f.add(field, seconds.value, micro_batches * layer_seconds(c), "embedding, head, loss and launches");
      continue;
    }
    if (field == "time.compute" || field == "time.host") {
      f.add(field, seconds.value, micro_batches * leaf(seconds.value / d(c.micro_batches), "seconds of the busiest stage for one"), "");
      continue;
    }
    if (field == "time.bubble") {
      const double busy = t.step.value - t.bubble.value;
      f.add(field, seconds.value, leaf(t.bubble.value / busy, "idle share, of the schedule with " + std::to_string(e.strategy.pp) + " stages") *
                                      leaf(busy, "seconds of all else"), "");
      continue;
    }
    // A group's transfers: calls × seconds each × the share that nothing hides.
    Term sum = leaf(0, "");
    const std::string group = std::string(name).substr(0, 2);
    if (field != "time.optimizer")
      for (const Communication& x : e.communication)
        if ((x.group == group || (group == "dp" && (x.group == "embedding" || x.group == "world"))) && x.exposed_seconds.value > 0 && x.count > 0) {
          const Term one = leaf(d(x.count), x.collective + " calls") * leaf(x.seconds.value / d(x.count), "seconds each") *
                           leaf(x.exposed_seconds / x.seconds, "share that shows");
          sum = sum.value == 0 ? one : sum + one;
        }
    if (field == "time.optimizer") {
      const StageWeights w = c.weights(c.stages.front());
      const double mine = e.strategy.zero >= 1 ? w.dense / c.shards + w.experts / c.expert_shards() : w.all();
      sum = leaf(mine, "parameters that this rank updates") * leaf(seconds.value / std::max(1.0, mine), "seconds each");
    }
    f.add(field, seconds.value, sum, field == "time.dp_comm" ? "waiting for the slowest node" : "what latency and sharing add");
  }
  Term step = leaf(0, "");
  for (const auto& [name, seconds] : parts)
    if (seconds.value != 0) step = step.value == 0 ? leaf(seconds.value, name) : step + leaf(seconds.value, name);
  f.add("time.step", t.step.value, step, "rounding");
}

void rates(Formulas& f, const Inputs& in, const Estimate& e) {
  const std::int64_t seq = sequence_length(in.model, in.workload);
  const ForwardFlops forward = forward_flops(in.model, seq);
  const Term tokens = leaf(d(in.workload.global_batch), "sequences") * leaf(d(seq), "tokens each");
  const Term linears = leaf(forward.attention_linears, "attention's linears") + leaf(forward.mlp, "MLP") + leaf(forward.head, "head");
  const Term three = leaf(3, "forward and twice backward");
  f.add("flops.model_causal", e.flops.model_causal.value, three * tokens * (linears + leaf(forward.attention_causal, "causal scores, per token")), "rounding");
  f.add("flops.model_full", e.flops.model_full.value, three * tokens * (linears + leaf(forward.attention_full, "full scores, per token")), "rounding");
  f.add("flops.hardware", e.flops.hardware.value, leaf(e.flops.model_causal.value, "model FLOPs, causal"), "recomputed");
  const Term step = leaf(e.time.step.value, "seconds of a step"), devices = leaf(d(e.strategy.devices()), "devices");
  f.add("tokens_per_s", e.tokens_per_s, tokens / step, "rounding");
  f.add("tokens_per_s_per_device", e.tokens_per_s_per_device, leaf(e.tokens_per_s, "tokens per second") / devices, "rounding");
  f.add("tflops_per_device", e.tflops_per_device, leaf(e.flops.model_causal.value, "model FLOPs") / step / devices / leaf(1e12, "per tera"), "rounding");
  if (e.mfu >= 0) {
    const double peak = peak_of_rank(in.cluster, in.workload.precision, e.strategy.devices()).value;
    f.add("mfu", e.mfu, leaf(e.flops.model_causal.value, "model FLOPs") / step / devices / leaf(peak, "peak of one"), "rounding");
    f.add("hfu", e.hfu, leaf(e.flops.hardware.value, "hardware FLOPs") / step / devices / leaf(peak, "peak of one"), "rounding");
  }
  if (e.days >= 0) {
    f.add("days", e.days, leaf(d(in.workload.tokens), "tokens") / leaf(e.tokens_per_s, "tokens per second") / leaf(86400, "seconds of a day"), "rounding");
    if (const double cost = cost_of(e, in.cluster); cost >= 0)
      f.add("cost", cost, leaf(e.days, "days") * leaf(24, "hours") * devices * leaf(in.cluster.device.price_per_hour, "per device and hour"), "rounding");
  }
}

}  // namespace

std::vector<Formula> formulas(const Inputs& in, const Estimate& e) {
  const Runtime runtime = in.runtime ? *in.runtime : read_runtime(in.workload.runtime);
  const RuntimeCase c(in.model, in.cluster, in.workload, e.strategy, runtime, layer_split(e.strategy, in.model.num_hidden_layers));
  Formulas f;
  memory(f, c, e);
  time(f, c, e);
  rates(f, in, e);
  return f.list;
}

Json formulas_json(const std::vector<Formula>& list) {
  Json all = Json::array();
  for (const Formula& f : list) all.push_back({{"field", f.field}, {"value", f.value}, {"formula", f.words}, {"numbers", f.numbers}});
  return all;
}

std::string formulas_text(const std::vector<Formula>& list) {
  std::string text = " each figure as its formula, and with the numbers put in\n";
  for (const Formula& f : list) {
    const bool bytes = f.field.starts_with("memory"), seconds = f.field.starts_with("time");
    const std::string value = bytes ? bytes_text({static_cast<std::int64_t>(f.value)}) : seconds ? seconds_text({f.value})
                              : f.field.starts_with("flops") ? flops_text(f.value) : fmt::format("{:.5g}", f.value);
    text += fmt::format("\n {:<24} {} = {}\n {:<24} = {}\n", f.field, value, f.words, "", f.text);
  }
  return text;
}

}  // namespace llmplan::cli
