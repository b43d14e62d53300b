// From a row of a case file to the inputs of estimate(). What the row leaves blank comes from the runtime's
// documented defaults or from a known model of the same shape; what neither tells makes the row unusable.
#include <algorithm>
#include <charconv>

#include "costmodel/error.h"
#include "costmodel/validate.h"
#include "costmodel/words.h"

namespace llmplan {
namespace {

using Why = std::string;  // why a row cannot be used; empty: it can

template <class T>
Why need(const std::optional<T>& cell, const char* column) {
  return cell ? "" : std::string("'") + column + "' is blank";
}

// A built-in model with the row's widths; layers may differ, since shortened models are measured too. Experts
// may be left blank where the strategy says that there are some.
const ModelConfig* same_shape(const Case& c, const BlankCells& blank, const std::vector<ModelConfig>& models) {
  const bool unsaid = !c.n_experts && c.ep.value_or(1) > 1;
  for (const ModelConfig& m : models) {
    const bool moe = m.num_experts > 0;
    const bool experts = (unsaid ? moe : c.n_experts.value_or(0) == m.num_experts) &&
                         (!moe || c.moe_ffn.value_or(m.moe_intermediate_size) == m.moe_intermediate_size);
    const bool ffn = !c.ffn || *c.ffn == m.intermediate_size || (moe && *c.ffn == m.moe_intermediate_size);
    if (experts && ffn && *c.hidden == m.hidden_size && *c.heads == m.num_attention_heads &&
        (m.kv_lora_rank > 0) == (c.mla.value_or(0) > 0) &&
        (m.kv_lora_rank > 0 || c.kv_heads.value_or(*c.heads) == m.num_key_value_heads) &&
        (c.vocab ? *c.vocab == m.vocab_size : !blank.vocab || *blank.vocab == m.vocab_size))
      return &m;
  }
  return nullptr;
}

Why build_mlp(const Case& c, const BlankCells& blank, ModelConfig& m) {
  const std::string mlp = c.mlp.empty() ? blank.mlp : lower(c.mlp);
  if (mlp == "gelu") m.mlp = Mlp::gelu;
  else if (mlp == "swiglu") m.mlp = Mlp::swiglu;
  else if (mlp == "geglu") m.mlp = Mlp::geglu;
  else if (mlp == "relu") m.mlp = Mlp::relu;
  else if (mlp == "relu2") m.mlp = Mlp::relu2;
  else return mlp.empty() ? "'mlp' is blank" : "unknown mlp '" + mlp + "'";
  if (c.ffn) m.intermediate_size = *c.ffn;
  else if (c.moe_ffn) m.intermediate_size = *c.moe_ffn;
  else if (!is_gated(m.mlp)) m.intermediate_size = 4 * m.hidden_size;  // GPT's
  else return "'ffn' is blank";
  return "";
}

// GPT as in GPT-2 and GPT-3, or Llama, by the kind of MLP; Nemotron's relu2 is without biases and rotary.
void build_family(ModelConfig& m) {
  const bool gpt = m.mlp == Mlp::gelu || m.mlp == Mlp::relu;
  m.model_type = gpt ? "gpt2" : "llama";
  m.positions = gpt ? Positions::learned : Positions::rope;
  m.norm = gpt || m.mlp == Mlp::relu2 ? Norm::layer : Norm::rms;
  m.qkv_bias = m.attention_out_bias = m.mlp_bias = m.norm_bias = gpt;
  m.tie_word_embeddings = gpt;
}

Why build_model(const Case& c, const BlankCells& blank, const std::vector<ModelConfig>& models, ModelConfig& m) {
  for (const Why& why : {need(c.layers, "layers"), need(c.hidden, "hidden"), need(c.heads, "heads"), need(c.seq, "seq")})
    if (!why.empty()) return why;
  const ModelConfig* known = same_shape(c, blank, models);
  if (known) m = *known;
  m.name = c.model.empty() ? c.id : c.model;
  m.num_hidden_layers = *c.layers;
  m.hidden_size = *c.hidden;
  m.num_attention_heads = *c.heads;
  if (!known) {
    if (const Why why = build_mlp(c, blank, m); !why.empty()) return why;
    build_family(m);
    m.num_key_value_heads = c.kv_heads.value_or(*c.heads);
    if (!c.vocab && !blank.vocab) return "'vocab' is blank";
    m.vocab_size = c.vocab ? *c.vocab : *blank.vocab;
    m.head_dim = c.head_dim.value_or(*c.heads > 0 ? *c.hidden / *c.heads : 0);
    if (m.head_dim <= 0) return "head_dim cannot be derived from hidden and heads";
    if (c.mla.value_or(0) > 0)
      return "multi-head latent attention, whose ranks are not among the columns, and no built-in model has this shape";
    if (m.positions == Positions::learned) m.position_rows = *c.seq;
  }
  m.max_position_embeddings = std::max(m.max_position_embeddings, *c.seq);
  if (c.tied) m.tie_word_embeddings = *c.tied != 0;
  if (c.n_experts.value_or(0) > 0) {
    if (!c.top_k && !known) return "'top_k' is blank";
    m.num_experts = *c.n_experts;
    m.num_experts_per_tok = c.top_k.value_or(m.num_experts_per_tok);
    m.moe_intermediate_size = c.moe_ffn.value_or(known ? m.moe_intermediate_size : m.intermediate_size);
    if (c.shared_experts) m.shared_expert_intermediate_size = *c.shared_experts * m.moe_intermediate_size;
    if (c.dense_layers) m.first_k_dense_replace = *c.dense_layers;
  } else if (m.num_experts == 0 && c.ep.value_or(1) > 1) {
    return "ep is " + std::to_string(*c.ep) + ", but 'n_experts' is blank, and no built-in model of experts has these widths";
  }
  try {
    check(m);
  } catch (const Error& e) {
    return e.message;
  }
  return "";
}

Why build_workload(const Case& c, const BlankCells& blank, Workload& w) {
  if (*c.seq < 1) return "'seq' is 0";
  w.seq = *c.seq;
  w.runtime = c.runtime;
  const std::string precision = c.precision.empty() ? blank.precision : lower(c.precision);
  const auto says = [&](std::initializer_list<const char*> words) {
    return std::ranges::any_of(words, [&](const char* word) { return contains(precision, word); });
  };
  if (says({"fp4"})) return "precision '" + precision + "' is not modelled";
  if (says({"fp8", "float8"})) w.precision = DType::fp8_e4m3;  // whatever its scaling: per tensor, per block, mx
  else if (says({"bf16", "bfloat16"})) w.precision = DType::bf16;
  else if (says({"fp16", "float16", "half"})) w.precision = DType::fp16;
  else if (says({"fp32", "float32", "tf32"})) w.precision = DType::fp32;
  else return precision.empty() ? "'precision' is blank" : "precision '" + precision + "' is not modelled";
  const std::string optimizer = lower(c.optimizer);
  if (contains(optimizer, "8bit") || contains(optimizer, "8-bit") || contains(optimizer, "adam8")) w.optimizer.kind = OptimizerKind::adamw_8bit;
  else if (contains(optimizer, "adafactor")) w.optimizer.kind = OptimizerKind::adafactor;
  else if (contains(optimizer, "adam") || optimizer.empty()) w.optimizer.kind = OptimizerKind::adamw;
  else if (contains(optimizer, "lion")) w.optimizer.kind = OptimizerKind::lion;
  else if (contains(optimizer, "sgd")) w.optimizer.kind = OptimizerKind::sgd;
  else return "optimizer '" + c.optimizer + "' is not modelled";
  return "";
}

// none, selective, full, or full for some layers of each stage: "8", "8 layers", "full 8".
Why build_recompute(const std::string& text, Strategy& s) {
  const std::size_t digit = text.find_first_of("0123456789");
  const std::size_t end = digit == std::string::npos ? digit : text.find_first_not_of("0123456789", digit);
  const bool bare = digit == 0 && end == std::string::npos;
  if (text == "none" || text == "no" || text == "off" || text == "false" || text == "0") s.recompute = Recompute::none;
  else if (contains(text, "selective")) s.recompute = Recompute::selective;
  else if (text == "full" || text == "all" || text == "true" || text == "on") s.recompute = Recompute::full;
  else if ((bare || (digit != std::string::npos && (contains(text, "layer") || contains(text, "full")))) && text.size() < 40) {
    s.recompute = Recompute::full;
    s.recompute_layers = std::stoll(text.substr(digit, std::min(end, digit + 9) - digit));
  } else {
    return text.empty() ? "'recompute' is blank" : "recompute '" + text + "' is not modelled";
  }
  return "";
}

// "1F1B", "Interleaved1F1B", "afab" and "zero_bubble_h1" are what other tools call them.
Why build_schedule(const std::string& text, Strategy& s) {
  std::string word;
  for (const char c : text)
    if (c != '-' && c != '_' && c != ' ') word += c;
  if (word == "gpipe" || word == "afab" || word == "allforwardallbackward") s.schedule = Schedule::gpipe;
  else if (word == "zbh1" || word == "zerobubble" || word == "zerobubbleh1" || word == "interleavedzerobubble") s.schedule = Schedule::zb_h1;
  else if (word.empty() || word == "none" || word == "1f1b" || word == "interleaved" || word == "interleaved1f1b" ||
           word == "1f1binterleaved" || word == "vpp")
    s.schedule = s.vpp > 1 ? Schedule::interleaved : Schedule::one_f_one_b;
  else return "schedule '" + text + "' is not modelled";
  return "";
}

Why build_methods(const Case& c, const BlankCells& blank, Strategy& s) {
  if (const Why why = build_recompute(c.recompute.empty() ? blank.recompute : lower(c.recompute), s); !why.empty()) return why;
  if (const Why why = build_schedule(lower(c.schedule), s); !why.empty()) return why;
  const std::string attention = c.attention.empty() ? blank.attention : lower(c.attention);
  const auto says = [&](std::initializer_list<const char*> words) {
    return std::ranges::any_of(words, [&](const char* word) { return contains(attention, word); });
  };
  if (says({"unfused", "eager", "naive", "math"})) s.attention = AttentionKernel::unfused;
  else if (says({"flash", "cudnn", "memory_efficient", "memory-efficient", "xformers", "fa2", "fa3", "sdpa", "fused"}))
    s.attention = AttentionKernel::flash;
  else return attention.empty() ? "'attention' is blank" : "attention '" + attention + "' is not modelled";
  const std::string offload = lower(c.offload);
  s.offload.optimizer = contains(offload, "optim");
  s.offload.gradients = contains(offload, "grad");
  s.offload.weights = contains(offload, "weight") || contains(offload, "param");
  s.offload.activations = contains(offload, "activ");
  if (!offload.empty() && offload != "none" && s.offload == Offload{}) return "offload '" + c.offload + "' is not modelled";
  return "";
}

Why build_batch(const Case& c, const BlankCells& blank, Workload& w, Strategy& s) {
  if (!c.global_batch && !(blank.no_accumulation && c.micro_batch)) return "'global_batch' is blank";
  w.global_batch = c.global_batch ? *c.global_batch : *c.micro_batch * s.dp;
  if (c.micro_batch) s.micro_batch = *c.micro_batch;
  else if (s.pp > 1 && blank.micro_batch_per_stage) s.micro_batch = std::max<std::int64_t>(1, w.global_batch / (s.dp * s.pp * s.vpp));
  else if (s.pp == 1 && blank.no_accumulation && w.global_batch % s.dp == 0) s.micro_batch = w.global_batch / s.dp;
  else if (blank.tuned_micro_batch) s.micro_batch = 0;
  else return "'micro_batch' is blank";
  return "";
}

// The whole number in an item NAME=N of the notes, which ';' separates; names in any case.
std::optional<std::int64_t> noted(const Case& c, const std::string& name) {
  const std::string notes = ";" + lower(c.notes);
  for (std::size_t at = 0; (at = notes.find(name + "=", at)) != std::string::npos; ++at) {
    const std::size_t before = notes.find_last_not_of(' ', at - 1), from = at + name.size() + 1;
    if (notes[before] != ';' || from >= notes.size()) continue;
    std::int64_t n = 0;
    const auto [end, error] = std::from_chars(notes.data() + from, notes.data() + notes.size(), n);
    const std::size_t next = static_cast<std::size_t>(end - notes.data());
    if (error == std::errc{} && (next == notes.size() || notes[next] == ';' || notes[next] == ' ')) return n;
  }
  return {};
}

Why build_strategy(const Case& c, const BlankCells& blank, Strategy& s) {
  for (const Why& why : {need(c.n_devices, "n_devices"), need(c.tp, "tp"), need(c.pp, "pp")})
    if (!why.empty()) return why;
  s.tp = *c.tp;
  s.pp = *c.pp;
  const bool interleaved = contains(lower(c.schedule), "interleaved") || contains(lower(c.notes), "interleaved");
  s.vpp = s.pp > 1 ? c.vpp.value_or(interleaved ? blank.interleaved_vpp : 1) : 1;  // some print it where it has no effect
  // Megatron counts the embedding and the head as a layer each where that makes chunks even (126 or 30 layers).
  if (s.pp > 1 && s.pp <= 1024 && s.vpp > 1 && s.vpp <= 1024 && c.layers) {
    const std::int64_t chunks = s.pp * s.vpp;
    if (*c.layers % chunks != 0 && (*c.layers + 2) % chunks == 0) {
      s.layers_per_stage.assign(static_cast<std::size_t>(chunks), (*c.layers + 2) / chunks);
      --s.layers_per_stage.front();
      --s.layers_per_stage.back();
    }
  }
  s.cp = c.cp.value_or(1);
  s.ep = c.ep.value_or(1);
  const std::int64_t model_parallel = s.tp * s.pp * s.cp;
  if (model_parallel < 1) return "tp, pp and cp must be at least 1";
  s.dp = c.dp.value_or(*c.n_devices / model_parallel);
  if (s.devices() != *c.n_devices)
    return "tp × pp × cp × dp is " + std::to_string(s.devices()) + ", not n_devices " + std::to_string(*c.n_devices);
  const auto zero = c.zero ? c.zero : blank.zero;
  if (!zero) return "'zero' is blank";
  s.zero = static_cast<int>(*zero);
  s.etp = c.etp ? *c.etp : s.ep > 1 ? std::max<std::int64_t>(0, noted(c, "etp").value_or(0)) : 0;
  // InternEvo's name for the ranks that share ZeRO-1's states; -1: all of them.
  const std::int64_t shard = c.zero_shard ? *c.zero_shard : noted(c, "zero1_group").value_or(0);
  if (s.zero > 0 && shard > 0) s.zero_groups.shard = shard;
  s.sp = c.sp.value_or(blank.sp.value_or(0)) != 0 && s.tp > 1;
  return build_methods(c, blank, s);
}

Why build_cluster(const Case& c, const ValidationData& data, Cluster& cluster, std::string& note) {
  const std::int64_t n = *c.n_devices;
  const std::int64_t per_node = std::min(n, c.devices_per_node.value_or(8));
  if (n < 1 || per_node < 1 || n % per_node != 0)
    return std::to_string(n) + " devices are not whole nodes of " + std::to_string(per_node);
  if (c.device.empty()) return "'device' is blank";
  try {
    cluster = data.cluster(c.device, n / per_node, per_node);
  } catch (const Error& e) {
    return e.message;
  }
  note = set_fabric(cluster, c.fabric, c.devices_per_node.value_or(8), data.fabrics);
  return "";
}

// The largest throughput among micro-batches that fit, as someone who tunes a run would find it.
Why tune_micro_batch(Setup& s) {
  double best = 0;
  std::int64_t chosen = 0;
  for (std::int64_t b = 1; b <= 64 && s.strategy.dp * b <= s.workload.global_batch; b *= 2) {
    s.strategy.micro_batch = b;
    const auto result = estimate(s);
    const Estimate* e = std::get_if<Estimate>(&result);
    if (e && e->fits && (chosen == 0 || e->time.step.value < best)) {
      best = e->time.step.value;
      chosen = b;
    }
  }
  s.strategy.micro_batch = chosen;
  return chosen > 0 ? "" : "'micro_batch' is blank, and none that llmplan tries fits";
}

}  // namespace

// The profile that a row's device, attention, optimizer or notes ask for, such as compile=0; else the runtime's own.
static std::string variant_of(const Case& c, const BlankCells& blank) {
  const std::string words = "device=" + c.device + ";attention=" + lower(c.attention) + ";optimizer=" + lower(c.optimizer) + ";" + c.notes;
  for (const auto& [word, profile] : blank.variants)
    if (contains(words, word.c_str())) return profile;
  return c.runtime;
}

std::variant<Estimate, Infeasible> estimate(const Setup& s) {
  return estimate(s.model, s.cluster, s.workload, s.strategy, s.runtime);
}

const std::string& resolve(const std::string& name, const std::map<std::string, std::string>& aliases) {
  std::string key;
  for (const char c : lower(name)) key += c == '_' || c == ' ' ? '-' : c;
  if (key.starts_with("nvidia-")) key.erase(0, 7);
  const auto found = aliases.find(key);
  return found == aliases.end() ? name : found->second;
}

std::variant<Setup, std::string> set_up(const Case& row, const ValidationData& data) {
  if (!row.problem.empty()) return "line " + std::to_string(row.line) + ": " + row.problem;
  Case c = row;
  c.runtime = resolve(row.runtime, data.runtime_aliases);
  c.device = resolve(row.device, data.device_aliases);
  Setup s;
  const auto found = data.blank_cells.find(c.runtime);
  const BlankCells blank = found == data.blank_cells.end() ? BlankCells{} : found->second;
  try {
    s.runtime = data.runtime(variant_of(c, blank));
  } catch (const Error& e) {
    return e.message;
  }
  if (Why why = build_model(c, blank, data.models, s.model); !why.empty()) return why;
  if (Why why = build_workload(c, blank, s.workload); !why.empty()) return why;
  if (Why why = build_strategy(c, blank, s.strategy); !why.empty()) return why;
  if (Why why = build_batch(c, blank, s.workload, s.strategy); !why.empty()) return why;
  if (Why why = build_cluster(c, data, s.cluster, s.note); !why.empty()) return why;
  if (s.strategy.micro_batch == 0)
    if (Why why = tune_micro_batch(s); !why.empty()) return why;
  return s;
}

}  // namespace llmplan
