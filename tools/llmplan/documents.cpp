#include "tools/llmplan/documents.h"

#include <cmath>
#include <iostream>

#include "tools/llmplan/strategy_fields.h"
#include "tools/llmplan/uncertainty.h"

namespace llmplan::cli {
namespace {

Json time_json(const Time& t) {
  return {{"step", t.step.value},         {"compute", t.compute.value}, {"tp_comm", t.tp_comm.value},
          {"cp_comm", t.cp_comm.value},   {"ep_comm", t.ep_comm.value}, {"dp_comm", t.dp_comm.value},
          {"pp_comm", t.pp_comm.value},   {"bubble", t.bubble.value},   {"optimizer", t.optimizer.value},
          {"host", t.host.value}};
}

Json communication_json(const std::vector<Communication>& all) {
  Json rows = Json::array();
  for (const Communication& c : all)
    rows.push_back({{"group", c.group},
                    {"collective", c.collective},
                    {"bytes_per_device", c.bytes_per_device.value},
                    {"count", c.count},
                    {"seconds", c.seconds.value},
                    {"exposed_seconds", c.exposed_seconds.value}});
  return rows;
}

}  // namespace

Json known(double x) { return x < 0 || !std::isfinite(x) ? Json(nullptr) : Json(x); }

Json model_json(const ModelConfig& m) {
  Json object = {{"name", m.name},
                 {"model_type", m.model_type},
                 {"parameters", parameters(m)},
                 {"active_parameters", active_parameters(m)},
                 {"layers", m.num_hidden_layers},
                 {"hidden_size", m.hidden_size},
                 {"intermediate_size", m.intermediate_size},
                 {"num_attention_heads", m.num_attention_heads},
                 {"num_key_value_heads", m.num_key_value_heads},
                 {"head_dim", m.head_dim},
                 {"vocab_size", m.vocab_size},
                 {"num_experts", m.num_experts}};
  object["max_position_embeddings"] =
      m.max_position_embeddings > 0 ? Json(m.max_position_embeddings) : Json(nullptr);
  return object;
}

Json cluster_json(const Cluster& c) {
  Json peak = Json::object();
  for (const auto& [type, rate] : c.device.peak) peak[std::string(name_of(type))] = rate.value;
  return {{"name", c.name},
          {"nodes", c.nodes},
          {"devices_per_node", c.devices_per_node},
          {"devices", c.devices()},
          {"device", c.device.name},
          {"memory", c.device.memory.value},
          {"peak_flops", peak},
          {"price_per_hour", c.device.price_per_hour > 0 ? Json(c.device.price_per_hour) : Json(nullptr)},
          {"calibrated", !c.device.measured.empty()}};
}

Json workload_json(const Workload& w) {
  return {{"seq", w.seq},
          {"global_batch", w.global_batch},
          {"tokens_per_step", w.seq * w.global_batch},
          {"tokens", w.tokens > 0 ? Json(w.tokens) : Json(nullptr)},
          {"precision", precision_name(w.precision)},
          {"optimizer", std::string(name_of(w.optimizer.kind))},
          {"runtime", w.runtime}};
}

Json memory_json(const Memory& m) {
  return {{"weights", m.weights.value},         {"gradients", m.gradients.value},
          {"optimizer", m.optimizer.value},     {"activations", m.activations.value},
          {"logits", m.logits.value},           {"buffers", m.buffers.value},
          {"reserve", m.reserve.value},         {"peak", m.peak.value},
          {"capacity", m.capacity.value},       {"peak_stage", m.peak_stage},
          {"moment", std::string(m.moment)},    {"allocated", m.allocated().value},
          {"reserved", m.reserved().value}};
}

double cost_of(const Estimate& e, const Cluster& c) {
  if (e.days < 0 || c.device.price_per_hour <= 0) return -1;
  return e.days * 24 * static_cast<double>(e.strategy.devices()) * c.device.price_per_hour;
}

Json estimate_json(const Estimate& e, const ModelConfig& m, const Cluster& c, const Workload& w) {
  Json per_stage = Json::array();
  for (const Memory& stage : e.memory_per_stage) per_stage.push_back(memory_json(stage));
  return {{"strategy", strategy_json(e.strategy, w)},
          {"name", describe(e.strategy)},
          {"fits", e.fits},
          {"reason", e.reason.empty() ? Json(nullptr) : Json(e.reason)},
          {"memory", memory_json(e.memory)},
          {"memory_per_stage", per_stage},
          {"time", time_json(e.time)},
          {"communication", communication_json(e.communication)},
          {"flops",
           {{"model_causal", e.flops.model_causal.value},
            {"model_full", e.flops.model_full.value},
            {"hardware", e.flops.hardware.value}}},
          {"tokens_per_s", e.tokens_per_s},
          {"tokens_per_s_per_device", e.tokens_per_s_per_device},
          {"tflops_per_device", e.tflops_per_device},
          {"mfu", known(e.mfu)},
          {"hfu", known(e.hfu)},
          {"days", known(e.days)},
          {"cost", known(cost_of(e, c))},
          {"uncertainty", uncertainty_json(uncertainty_of(m, c, w, e.strategy), e)}};
}

Json flops_json(const FlopsByKind& f) {
  return {{"attention_linears", f.attention_linears.value}, {"attention_scores", f.attention_scores.value}, {"mlp", f.mlp.value},
          {"head", f.head.value}, {"recomputed", f.recomputed.value}};
}

Json infeasible_json(const Strategy& s, const Infeasible& why, const Workload& w) {
  return {{"strategy", strategy_json(s, w)},
          {"name", describe(s)},
          {"fits", false},
          {"reason", why.reason},
          {"constraint", why.constraint},
          {"hint", why.hint},
          {"memory", nullptr},
          {"time", nullptr}};
}

void print_document(const Json& document) {
  std::cout << document.dump(2, ' ', false, Json::error_handler_t::replace) << '\n';
}

}  // namespace llmplan::cli
