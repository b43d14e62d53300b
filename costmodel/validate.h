// Measurements of training runs, published or one's own, held against the model's predictions.
// docs/validation.md describes the columns and how each is read.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "costmodel/estimate.h"
#include "costmodel/fabric.h"
#include "costmodel/runtime.h"

namespace llmplan {

// One row of a case file. Blank cells are empty.
struct Case {
  std::string file;
  int line = 0;
  std::string problem;  // why the row could not be read; empty: it could
  std::string id, source, runtime, device, model;
  std::optional<std::int64_t> layers, hidden, heads, kv_heads, head_dim, ffn;
  std::string mlp;
  std::optional<std::int64_t> vocab, tied, seq;
  std::optional<std::int64_t> n_experts, top_k, moe_ffn, shared_experts, dense_layers, mla;
  std::optional<std::int64_t> n_devices, devices_per_node;
  std::string fabric;
  std::optional<std::int64_t> tp, pp, vpp, cp, ep, etp, dp, zero, zero_shard, sp;
  std::string schedule;
  std::optional<std::int64_t> global_batch, micro_batch;
  std::string recompute, attention, precision, optimizer, offload;
  std::optional<double> step_time_s, tokens_per_s_per_device, tflops_per_device;
  std::string tflops_convention;
  std::optional<double> mfu, peak_memory;
  std::string memory_unit, memory_kind, outcome, quality, notes;
};

// The columns, once: f(name, member) for each, in the order of the files.
template <class CaseType, class F>
void for_each_column(CaseType& c, F f) {
  f("id", c.id), f("source", c.source), f("runtime", c.runtime), f("device", c.device), f("model", c.model);
  f("layers", c.layers), f("hidden", c.hidden), f("heads", c.heads), f("kv_heads", c.kv_heads);
  f("head_dim", c.head_dim), f("ffn", c.ffn), f("mlp", c.mlp), f("vocab", c.vocab), f("tied", c.tied);
  f("seq", c.seq), f("n_experts", c.n_experts), f("top_k", c.top_k), f("moe_ffn", c.moe_ffn);
  f("shared_experts", c.shared_experts), f("dense_layers", c.dense_layers), f("mla", c.mla);
  f("n_devices", c.n_devices), f("devices_per_node", c.devices_per_node), f("fabric", c.fabric);
  f("tp", c.tp), f("pp", c.pp), f("vpp", c.vpp), f("cp", c.cp), f("ep", c.ep), f("etp", c.etp), f("dp", c.dp);
  f("zero", c.zero), f("zero_shard", c.zero_shard), f("sp", c.sp), f("schedule", c.schedule), f("global_batch", c.global_batch);
  f("micro_batch", c.micro_batch), f("recompute", c.recompute), f("attention", c.attention);
  f("precision", c.precision), f("optimizer", c.optimizer), f("offload", c.offload);
  f("step_time_s", c.step_time_s), f("tokens_per_s_per_device", c.tokens_per_s_per_device);
  f("tflops_per_device", c.tflops_per_device), f("tflops_convention", c.tflops_convention), f("mfu", c.mfu);
  f("peak_memory", c.peak_memory), f("memory_unit", c.memory_unit), f("memory_kind", c.memory_kind);
  f("outcome", c.outcome), f("quality", c.quality), f("notes", c.notes);
}

// How a source counts the FLOPs behind its TFLOP/s.
enum class FlopsConvention : std::uint8_t {
  model_full,          // forward and backward, attention not halved: Megatron-LM since 2023
  model_causal,        // attention as a causal mask needs it
  hardware_recompute,  // model_full and once more the layers' forward: SC'21, BLOOM
  six_n,               // 6N + 12·L·h·s per token, N all parameters: llm-foundry, nanotron
  six_n_no_embedding,  // the same, N without the embedding table: torchtitan
};

// What a blank cell means in rows of one runtime: its documented defaults.
struct BlankCells {
  std::optional<std::int64_t> vocab, zero, sp;
  std::string mlp, precision, recompute, attention;
  bool tuned_micro_batch = false;  // the runs were tuned: the micro-batch that llmplan finds fastest
  bool no_accumulation = false;    // one micro-batch per step where pp = 1: either batch size gives the other
  bool micro_batch_per_stage = false;  // where pp > 1: as many micro-batches as stages, chunks counted
  std::int64_t interleaved_vpp = 1;    // of rows that say interleaved and print no vpp
  FlopsConvention flops = FlopsConvention::model_full;
  // Words of the notes, or attention=CELL or optimizer=CELL, and the profile of the software that ran so; the first
  // that a row contains counts.
  std::vector<std::pair<std::string, std::string>> variants;
};

// What predictions need beside the rows. Functions, because reading profiles is not this layer's work.
struct ValidationData {
  // nodes × devices per node × device; throws Error for an unknown device.
  std::function<Cluster(const std::string& device, std::int64_t nodes, std::int64_t devices_per_node)> cluster;
  std::function<Runtime(const std::string& runtime)> runtime;  // throws Error for an unknown one
  std::map<std::string, BlankCells> blank_cells;               // by runtime
  std::map<std::string, std::string> device_aliases, runtime_aliases;  // other names of profiles; see resolve
  std::vector<FabricWord> fabrics;                             // words for networks
  std::vector<ModelConfig> models;  // complete what the columns cannot say (MLA's ranks, norms, tied heads)
};

struct Setup {
  std::string note;  // in what the row was not understood; empty: in nothing
  ModelConfig model;
  Cluster cluster;
  Workload workload;
  Strategy strategy;
  Runtime runtime;
};
std::variant<Estimate, Infeasible> estimate(const Setup&);
// The profile that a row's word for a device or a runtime means, or the word itself.
const std::string& resolve(const std::string& name, const std::map<std::string, std::string>& aliases);
// The inputs of estimate(), or why there are none.
std::variant<Setup, std::string> set_up(const Case&, const ValidationData&);
// Seconds of the measured step, converted if need be, or why there are none.
std::variant<double, std::string> measured_step(const Case&, const ValidationData&, const Setup&);
Flops counted_flops(FlopsConvention, const ModelConfig&, const Workload&, const Strategy&);  // of one step

struct Comparison {
  std::string id, source, runtime, device;
  std::string metric;  // "step_time" seconds, "peak_memory" bytes, "oom" 0 or 1
  double measured = 0, predicted = 0, error = 0;  // error: predicted/measured − 1; of oom: predicted − measured
  bool skipped = false, headline = true;          // headline: counts in summaries
  std::string reason;                             // why skipped; else in what the row was not understood
  std::string problem, strategy;                  // rows that differ in strategy only share the problem; ranking.h
};
std::vector<Comparison> compare(const Case&, const ValidationData&);
const std::string& group_of(const Comparison&, const std::string& by);  // "source", "runtime" or "device"

struct Summary {
  std::string group, metric;
  std::int64_t n = 0, skipped = 0, left_out = 0;  // left_out: suspect or quoted from memory
  double mape = 0, median_ape = 0, p90_ape = 0, max_ape = 0, bias = 0;
};
// By "source", "runtime" or "device"; the groups in order of first appearance, then "all". Of oom, mape
// is the fraction of wrong answers and bias the excess of predicted over real failures.
std::vector<Summary> summarize(const std::vector<Comparison>&, const std::string& by);

}  // namespace llmplan
