#include "tools/llmplan/options.h"

#include <algorithm>
#include <iostream>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "costmodel/error.h"
#include "costmodel/estimate.h"
#include "costmodel/profiles/profiles.h"
#include "costmodel/profiles/runtime_profile.h"
#include "tools/llmplan/format.h"
#include "tools/llmplan/strategy_fields.h"

namespace llmplan::cli {
namespace {

using Values = std::map<std::string, std::string>;

void add(CLI::App& app, Values& values, const std::string& flag, const std::string& type,
         const std::string& help, const std::string& group) {
  const std::string key = flag.substr(0, flag.find(','));
  app.add_option_function<std::string>(
         flag, [&values, key](const std::string& text) { values[key] = text; }, help)
      ->type_name(type)
      ->group(group);
}

const std::string* given(const Values& values, const std::string& flag) {
  const auto it = values.find(flag);
  return it == values.end() ? nullptr : &it->second;
}

Workload read_workload(const Typed& typed, const ModelConfig& model, const Cluster& cluster) {
  Workload w;
  w.precision = usual_precision(cluster.device);
  w.seq = sequence_length(model, w);
  const auto read = [&](const char* flag, auto use) {
    if (const std::string* text = given(typed.workload, flag)) use(flag, *text);
  };
  read("--seq", [&](auto f, auto& t) { w.seq = read_count(f, t); });
  read("--global-batch", [&](auto f, auto& t) { w.global_batch = read_count(f, t); });
  read("--tokens", [&](auto f, auto& t) { w.tokens = read_count(f, t); });
  read("--precision", [&](auto f, auto& t) { w.precision = read_precision(f, t); });
  read("--documents", [&](auto f, auto& t) { w.documents = read_switch(f, t); });
  read("--loss-scale", [&](auto f, auto& t) { w.optimizer.loss_scale = read_real(f, t, 1, 1e12); });
  read("--loss-scale-window", [&](auto f, auto& t) { w.optimizer.loss_scale_window = read_integer(f, t, 1, 1'000'000'000); });
  read("--optimizer", [&](auto f, auto& t) { w.optimizer.kind = read_optimizer(f, t); });
  read("--runtime", [&](auto, auto& t) { w.runtime = t; });
  read("--lr", [&](auto f, auto& t) {
    w.optimizer.lr = read_real(f, t, 0, 10);
    w.optimizer.min_lr = w.optimizer.lr / 10;
  });
  read("--min-lr", [&](auto f, auto& t) { w.optimizer.min_lr = read_real(f, t, 0, 10); });
  read("--warmup", [&](auto f, auto& t) { w.optimizer.warmup_steps = read_integer(f, t, 0, 1'000'000'000); });
  read("--weight-decay", [&](auto f, auto& t) { w.optimizer.weight_decay = read_real(f, t, 0, 10); });
  read("--beta1", [&](auto f, auto& t) { w.optimizer.beta1 = read_real(f, t, 0, 0.999999); });
  read("--beta2", [&](auto f, auto& t) { w.optimizer.beta2 = read_real(f, t, 0, 0.999999); });
  read("--clip", [&](auto f, auto& t) { w.optimizer.clip = read_real(f, t, 0, 1e6); });
  read("--seed", [&](auto f, auto& t) {
    w.seed = static_cast<std::uint64_t>(read_integer(f, t, 0, 999'999'999'999'999'999));
  });
  if (model.max_position_embeddings > 0 && w.seq > model.max_position_embeddings &&
      model.positions == Positions::learned)
    throw Error("E0303", Exit::usage,
                fmt::format("--seq {} is longer than the {} learned positions of {}", w.seq,
                            model.max_position_embeddings, model.name),
                fmt::format("use --seq {} or less", model.max_position_embeddings));
  return w;
}

// dp from the devices that are left, or for a CPU, whose cores any number of ranks may share, 1.
void derive_dp(Strategy& s, const Cluster& cluster) {
  if (cluster.device.cpu) return;
  const std::int64_t others = s.tp * s.pp * s.cp;
  if (cluster.devices() % others != 0)
    throw Error("E0311", Exit::usage,
                fmt::format("tp={} x pp={} x cp={} = {} does not divide the {} devices of {}", s.tp, s.pp,
                            s.cp, others, cluster.devices(), cluster.name),
                fmt::format("choose degrees whose product divides {}", cluster.devices()));
  s.dp = cluster.devices() / others;
}

// micro-batch x accumulation x dp = global batch: two of them give the third.
void derive_batches(Strategy& s, Workload& w, const Typed& typed, const Cluster& cluster) {
  const std::string* text = given(typed.strategy, "--accumulation");
  const bool micro_given = given(typed.strategy, "--micro-batch") != nullptr;
  if (text == nullptr) {
    if (w.global_batch == 0)
      w.global_batch = default_global_batch(cluster, w.seq, s.dp * s.micro_batch);
    return;
  }
  const std::int64_t accumulation = read_count("--accumulation", *text);
  const std::int64_t fixed = accumulation * s.dp;
  if (w.global_batch == 0) {
    w.global_batch = fixed * s.micro_batch;
  } else if (!micro_given && w.global_batch % fixed == 0) {
    s.micro_batch = w.global_batch / fixed;
  } else if (w.global_batch != fixed * s.micro_batch) {
    const std::int64_t unit = s.micro_batch * s.dp;
    const std::int64_t below = std::max(unit, w.global_batch / unit * unit);
    throw Error("E0110", Exit::usage,
                fmt::format("batch sizes disagree: global {} != micro {} x accumulation {} x "
                            "data-parallel {} (= {})",
                            w.global_batch, s.micro_batch, accumulation, s.dp, fixed * s.micro_batch),
                fmt::format("drop one of the three and it will be derived; nearest valid global: {} "
                            "(accumulation {}), {} (accumulation {})",
                            below, below / unit, below + unit, below / unit + 1));
  }
}

}  // namespace

void add_model_and_cluster(CLI::App& app, Typed& typed) {
  app.add_option("MODEL", typed.model, "a name (llmplan models), a YAML file, or a Hugging Face directory")
      ->required();
  app.add_option("--cluster,--gpus", typed.cluster,
                 "local (default), 8xh100-80g-sxm, 6x4xa100-80g-sxm (nodes x devices x type) or a YAML file")
      ->type_name("C");
}

void add_workload(CLI::App& app, Typed& typed) {
  const std::string group = "Workload";
  add(app, typed.workload, "--seq", "N", "tokens per sequence", group);
  add(app, typed.workload, "--global-batch", "N", "sequences per step", group);
  add(app, typed.workload, "--tokens", "N", "of the whole training run, such as 100B", group);
  add(app, typed.workload, "--price", "X", "per device and hour, in any currency: the cost of --tokens", group);
  add(app, typed.workload, "--precision", "P", "fp32, fp16, bf16 or fp8", group);
  add(app, typed.workload, "--documents", "on|off", "documents of the data stay apart: attention and positions", group);
  add(app, typed.workload, "--optimizer,--optim", "NAME", "adamw, adamw-lean (bf16 without fp32 copies), lion, sgd, adamw-8bit or adafactor", group);
  add(app, typed.workload, "--runtime", "NAME", "the training software to model", group);
  const std::string training = "Training";
  add(app, typed.workload, "--lr", "X", "peak learning rate", training);
  add(app, typed.workload, "--min-lr", "X", "learning rate at the last step (default: a tenth of the peak)", training);
  add(app, typed.workload, "--warmup", "N", "steps of linear warm-up", training);
  add(app, typed.workload, "--weight-decay", "X", "decoupled weight decay", training);
  add(app, typed.workload, "--beta1", "X", "AdamW's first moment", training);
  add(app, typed.workload, "--beta2", "X", "AdamW's second moment", training);
  add(app, typed.workload, "--clip", "X", "global gradient norm (0: no clipping)", training);
  add(app, typed.workload, "--loss-scale", "X", "fp16: first loss scale (65536)", training);
  add(app, typed.workload, "--loss-scale-window", "N", "fp16: good steps in a row until it doubles (2000)", training);
  add(app, typed.workload, "--seed", "N", "of the initial weights and the order of the data", training);
}

void add_strategy(CLI::App& app, Typed& typed) {
  const std::string group = "Strategy";
  for (const StrategyField& f : strategy_fields()) {
    if (f.name == "sp") {
      app.add_flag_callback("--sp", [&typed] { typed.strategy["--sp"] = "on"; }, f.help)->group(group);
      app.add_flag_callback("--no-sp", [&typed] { typed.strategy["--sp"] = "off"; }, "without it")->group(group);
    } else {
      add(app, typed.strategy, f.flag(), f.values, f.help, group);
    }
  }
  add(app, typed.strategy, "--accumulation", "N", "micro-batches per step and data-parallel rank", group);
}

void add_limits(CLI::App& app, Typed& typed) {
  const std::string group = "Limits (lists: --tp 1,2,4; what is left out is searched)";
  for (const char* name : {"tp", "pp", "vpp", "cp", "ep", "dp", "micro_batch", "zero", "sp", "recompute", "schedule", "layers_per_stage", "grad_bucket"}) {
    const StrategyField& f = *find_field(name);
    if (f.name == "sp") {
      app.add_flag_callback("--sp", [&typed] { typed.limits["--sp"] = "on"; }, f.help)->group(group);
      app.add_flag_callback("--no-sp", [&typed] { typed.limits["--sp"] = "off"; }, "without it")->group(group);
    } else {
      add(app, typed.limits, f.flag(), f.values, f.help, group);
    }
  }
}

Workload read_workload_words(const Typed& typed, const Cluster& cluster) {
  Workload w;
  w.precision = usual_precision(cluster.device);
  if (const std::string* text = given(typed.workload, "--precision")) w.precision = read_precision("--precision", *text);
  if (const std::string* text = given(typed.workload, "--optimizer")) w.optimizer.kind = read_optimizer("--optimizer", *text);
  if (const std::string* text = given(typed.workload, "--runtime")) w.runtime = *text;
  return w;
}

Inputs read_inputs(const Typed& typed) {
  // A checkpoint beside the config is not needed, but where it is, it ought to be the same model's.
  for (const std::string& difference : checkpoint_differences(typed.model)) std::cerr << "note: " << typed.model << ": " << difference << '\n';
  Inputs in{.model_text = typed.model, .model = read_model(typed.model), .cluster = read_cluster(typed.cluster), .workload = {}, .strategy = {}, .runtime = {}};
  in.workload = read_workload(typed, in.model, in.cluster);
  if (const std::string* text = given(typed.workload, "--price")) in.cluster.device.price_per_hour = read_real("--price", *text, 0, 1e6);
  if (in.workload.runtime != "llmplan") in.runtime = read_runtime(in.workload.runtime);
  if (typed.strategy.empty()) {
    if (in.workload.global_batch == 0)
      in.workload.global_batch = default_global_batch(in.cluster, in.workload.seq, in.cluster.devices());
    return in;
  }
  Strategy s;
  for (const StrategyField& f : strategy_fields())
    if (const std::string* text = given(typed.strategy, f.flag())) f.set(s, f.flag(), *text);
  if (given(typed.strategy, "--dp") == nullptr) derive_dp(s, in.cluster);
  derive_batches(s, in.workload, typed, in.cluster);
  in.strategy = s;
  return in;
}

std::variant<Estimate, Infeasible> price(const Inputs& in, const Strategy& s) {
  return in.runtime ? estimate(in.model, in.cluster, in.workload, s, *in.runtime)
                    : estimate(in.model, in.cluster, in.workload, s);
}

Limits read_limits(const Typed& typed) {
  Limits limits;
  // Each word is read as the strategy's field is, so both accept the same values.
  const auto list = [&](const char* name, auto& into, auto member) {
    const StrategyField& f = *find_field(name);
    if (const std::string* text = given(typed.limits, f.flag())) {
      for (const std::string& word : split(*text)) {
        Strategy s;
        f.set(s, f.flag(), word);
        into.push_back(s.*member);
      }
    }
  };
  list("tp", limits.tp, &Strategy::tp);
  list("pp", limits.pp, &Strategy::pp);
  list("vpp", limits.vpp, &Strategy::vpp);
  list("cp", limits.cp, &Strategy::cp);
  list("ep", limits.ep, &Strategy::ep);
  list("dp", limits.dp, &Strategy::dp);
  list("micro_batch", limits.micro_batch, &Strategy::micro_batch);
  list("zero", limits.zero, &Strategy::zero);
  list("recompute", limits.recompute, &Strategy::recompute);
  list("schedule", limits.schedule, &Strategy::schedule);
  list("sp", limits.sp, &Strategy::sp);
  if (const std::string* text = given(typed.limits, "--layers-per-stage")) {
    Strategy s;
    find_field("layers_per_stage")->set(s, "--layers-per-stage", *text);
    limits.layers_per_stage = s.layers_per_stage;
  }
  if (const std::string* text = given(typed.limits, "--grad-bucket")) {
    Strategy s;
    find_field("grad_bucket")->set(s, "--grad-bucket", *text);
    limits.grad_bucket = s.grad_bucket;
  }
  return limits;
}

std::int64_t default_global_batch(const Cluster& cluster, std::int64_t seq, std::int64_t multiple) {
  const std::int64_t tokens = cluster.device.cpu ? 8192 : 1 << 20;
  const std::int64_t wanted = std::max<std::int64_t>(1, tokens / seq);
  return (wanted + multiple - 1) / multiple * multiple;
}

}  // namespace llmplan::cli
