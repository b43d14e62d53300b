#include "costmodel/estimate.h"

#include <algorithm>
#include <array>
#include <cstdio>
#include <optional>
#include <span>
#include <variant>

#include "costmodel/block.h"
#include "costmodel/cost.h"
#include "costmodel/pipeline.h"
#include "costmodel/program_memory.h"
#include "costmodel/runtime_estimate.h"
#include "costmodel/step_ends.h"

namespace llmplan {
namespace {

using std::int64_t;

// One layer's passes, and those of what a stage has beside its layers. The first micro-batch writes
// gradients, the others add to them.
struct LayerCost {
  Cost forward, recompute, backward_first, backward;
  double norm = 0;  // seconds of the last backward pass behind the gradient of its last matrix
};

// The op as the first micro-batch has it, if later ones add to what it writes: in a layer's backward pass that is a
// parameter's gradient.
std::optional<Op> writing(const Op& op) {
  if (const auto* gemm = std::get_if<Gemm>(&op); gemm && gemm->accumulate) {
    Gemm first = *gemm;
    first.accumulate = false;
    return first;
  }
  if (const auto* norm = std::get_if<RmsNormGrad>(&op); norm && norm->accumulate) {
    RmsNormGrad first = *norm;
    first.accumulate = false;
    return first;
  }
  return {};
}

LayerCost price_layer(const Shapes& s, const Pricer& price, bool recomputed, bool accumulates) {
  LayerCost l;
  block::layer_forward(s, false, [&](const Op& op) { price(l.forward, op); });
  if (recomputed) block::layer_recompute(s, [&](const Op& op) { price(l.recompute, op); });
  // Once for both backward passes: what they share is most of a search's time.
  block::layer_backward(s, accumulates, recomputed, [&](const Op& op) {
    if (std::holds_alternative<Collective>(op)) {
      price(l.backward, op), price(l.backward_first, op);
      return;
    }
    l.norm = price.seconds(op);  // of the last op
    l.backward.compute += l.norm;
    const std::optional<Op> first = writing(op);
    l.backward_first.compute += first ? price.seconds(*first) : l.norm;
  });
  return l;
}

struct StageCost {
  Cost first, later;                    // forward and backward of the first and of every further micro-batch
  double forward_later = 0;             // the forward part of `later`, seconds
  StageEnds ends;
};

std::string over_by(const Memory& m) {
  char text[160];
  const double gib = 1.0 / (1 << 30);
  std::snprintf(text, sizeof text, "stage %d needs %.2f GiB of %.2f GiB: %.2f GiB too much", m.peak_stage,
                static_cast<double>(m.peak.value) * gib, static_cast<double>(m.capacity.value) * gib,
                static_cast<double>((m.peak - m.capacity).value) * gib);
  return text;
}

class ProgramEstimate {
 public:
  ProgramEstimate(const ModelConfig& m, const Cluster& c, const Workload& w, const Strategy& s)
      : model_(m), cluster_(c), workload_(w), strategy_(s), shapes_(shapes_of(m, c, w, s)), price_(c, s),
        micro_batches_(w.global_batch / (s.dp * s.micro_batch)) {}

  Estimate run() {
    Estimate e;
    e.strategy = strategy_;
    const std::vector<int64_t> layers = layer_split(strategy_, model_.num_hidden_layers);
    e.strategy.layers_per_stage = layers;
    price_stages(layers);
    memory(e);
    time_passes();
    time(e);
    return e;
  }

 private:
  void price_stages(const std::vector<int64_t>& layers) {
    const Strategy& st = strategy_;
    const bool full = st.recompute == Recompute::full, more = micro_batches_ > 1;
    int64_t most_kept = 0, most_again = 0;
    for (int64_t n : layers) {
      const int64_t again = recomputed(n);
      most_again = std::max(most_again, again);
      most_kept = std::max(most_kept, n - again);
    }
    LayerCost kept, again;
    if (most_kept > 0) kept = price_layer(shapes_, price_, false, more);
    if (full && most_again > 0) again = price_layer(shapes_, price_, true, more);
    // The first layer of a stage has nothing to add to its input.
    Cost first_norm, other_norm, gather_normed;
    const bool quantize = shapes_.fp8 && !shapes_.sp;
    price_(first_norm, RmsNorm{shapes_.split_rows, shapes_.hidden, false, shapes_.eps, shapes_.dtype, quantize});
    price_(other_norm, RmsNorm{shapes_.split_rows, shapes_.hidden, true, shapes_.eps, shapes_.dtype, quantize});
    block::gather_normed(shapes_, true, false, [&](const Op& op) { price_(gather_normed, op); });

    places_.resize(layers.size());
    cost_of_.resize(layers.size());
    costs_.reserve(4);
    for (std::size_t i = 0; i < layers.size(); ++i) {
      places_[i] = {static_cast<int64_t>(i), static_cast<int64_t>(layers.size()), layers[i]};
      // Stages between the ends that hold equally many layers cost the same.
      if (i > 1 && i + 1 < layers.size() && layers[i] == layers[i - 1]) {
        cost_of_[i] = cost_of_[i - 1];
        continue;
      }
      cost_of_[i] = costs_.size();
      StageCost& stage = costs_.emplace_back();
      const StagePlace& place = places_[i];
      StageEnds& ends = stage.ends;
      ends.layers = layers[i], ends.recomputed = recomputed(layers[i]);
      ends.beside_compute = !cluster_.device.cpu || cluster_.nodes > 1;
      const double n_again = static_cast<double>(ends.recomputed);
      const double n_kept = static_cast<double>(layers[i]) - n_again;
      double backward_first = 0;
      for (const bool accumulate : {false, true}) {
        if (accumulate && !more) break;
        Cost& sum = accumulate ? stage.later : stage.first;
        sum.add(kept.forward, n_kept);
        sum.add(again.forward, n_again);
        sum.compute += first_norm.compute - other_norm.compute;
        double after_head = 0;  // of the forward pass, which has the head's own backward in it
        const double layers_alone = sum.total();
        double before_head = 0, before_layers = 0, before_weights = 0;
        block::stage_forward(shapes_, place, accumulate, [&](const Op& op, int64_t times) {
          const double before = sum.total();
          if (std::holds_alternative<RmsNorm>(op) || std::holds_alternative<Add>(op)) before_layers = before - layers_alone;
          if (std::holds_alternative<Gemm>(op) && before_head == 0) before_head = before - layers_alone;
          price_(sum, op, times);
          if (std::holds_alternative<Load>(op)) before_weights = sum.total() - before;
          const auto* gemm = std::get_if<Gemm>(&op);
          if (gemm && gemm->out == DType::fp32 && gemm->a_transposed) after_head = 0;  // a weight's gradient
          else after_head += (sum.total() - before) / static_cast<double>(times);
        });
        stage.forward_later = sum.total();
        if (!accumulate) {
          ends.forward = sum.total();
          ends.before_weights = before_weights;
          ends.before_layers = before_layers + first_norm.total() + gather_normed.total();
          ends.before_head = before_head + first_norm.total() - other_norm.total();
        }
        double before_embedding = sum.total();
        block::stage_backward(shapes_, place, accumulate, [&](const Op& op) {
          price_(sum, op);
          if (std::holds_alternative<RmsNormGrad>(op)) before_embedding = sum.total();
        });
        ends.embedding = sum.total() - before_embedding;
        sum.add(accumulate ? kept.backward : kept.backward_first, n_kept);
        sum.add(accumulate ? again.backward : again.backward_first, n_again);
        sum.add(again.recompute, n_again);
        const double backward = sum.total() - stage.forward_later;
        ends.after_head = after_head + backward;
        if (accumulate && strategy_.schedule == Schedule::gpipe)  // all backward passes come behind the last forward pass
          ends.after_head += backward_first + static_cast<double>(micro_batches_ - 2) * backward;
        backward_first = backward;
      }
      ends.layer = std::max(kept.forward.total(), again.forward.total());
      ends.norm = std::max(kept.norm, again.norm);
      ends.kept = (more ? kept.backward : kept.backward_first).total();
      ends.again = (more ? again.backward : again.backward_first).total() + again.recompute.total();
      if (!more) stage.later = stage.first;
      price_ends(ends, place);
    }
  }

  void price_ends(StageEnds& ends, const StagePlace& place) {
    const Shapes& s = shapes_;
    ends.buckets = block::buckets_of(s, place);
    const auto collective = [&](const Collective& c) { return price_.collective_seconds(c); };
    if (s.sp) ends.norms = collective(block::norms_sum(ends.buckets));
    if (s.scaled()) ends.scale = price_.seconds(LossScale{s.scale_window});
    for (std::size_t r = 0; r < ends.bucket.size(); ++r) {
      const auto [count, elements, layers] = ends.buckets.runs[r];
      if (count == 0) continue;
      StageEnds::Bucket& b = ends.bucket[r];
      if (elements == priced_elements_ && r == 1) {  // of layers alone: every stage's are alike
        b = priced_bucket_;
        continue;
      }
      if (s.dp > 1) b.reduce = collective(block::bucket_sum(s, elements));
      b.stats = price_.seconds(block::bucket_stats(s, elements, r > 0));
      b.update = price_.seconds(block::bucket_update(s, elements));
      if (s.shards > 1) b.gather = collective(block::bucket_gather(s, elements));
      if (r == 1) priced_bucket_ = b, priced_elements_ = elements;
    }
  }

  int64_t recomputed(int64_t layers) const {
    if (strategy_.recompute != Recompute::full) return 0;
    return strategy_.recompute_layers == 0 ? layers : std::min(strategy_.recompute_layers, layers);
  }

  void memory(Estimate& e) const {
    e.memory_per_stage.reserve(places_.size());
    for (const StagePlace& place : places_)
      e.memory_per_stage.push_back(program_memory(shapes_, place, strategy_, cluster_.device, micro_batches_));
    e.memory = *std::max_element(e.memory_per_stage.begin(), e.memory_per_stage.end(),
                                 [](const Memory& a, const Memory& b) { return a.peak < b.peak; });
  }

  void time_passes() {
    passes_.resize(places_.size());
    for (std::size_t s = 0; s < passes_.size(); ++s) {
      if (s > 0 && cost_of_[s] == cost_of_[s - 1]) {
        passes_[s] = passes_[s - 1];
        continue;
      }
      const StageCost& c = cost(s);
      // The first micro-batch is taken to last as long as the others, until it is put right in step_seconds.
      const double ready = shapes_.shards > 1 ? weights_ready(c.ends) + c.forward_later - c.ends.forward : 0;
      passes_[s] = {c.forward_later, c.later.total() - c.forward_later, ready};
    }
  }

  // Seconds from the start to the end of the step, when a hop between stages takes `hop`.
  double step_seconds(double hop) const {
    const std::size_t n = passes_.size();
    std::vector<double> ends(n);
    pipeline_ends(strategy_.schedule, passes_, micro_batches_, hop, ends);
    for (std::size_t s = 0; s < n; ++s) ends[s] += cost(s).first.total() - cost(s).later.total();
    double world = 0, step = 0, both = 0;  // both: when the two ends of the pipeline have summed a tied table's gradient
    if (n > 1 && shapes_.tied)
      both = std::max(last_bucket_free(cost(0).ends, ends.front()), last_bucket_free(cost(n - 1).ends, ends.back())) + embedding_seconds();
    for (std::size_t s = 0; s < n; ++s)
      world = std::max(world, norm_known(cost(s).ends, ends[s], s == 0 || s + 1 == n ? both : 0));
    world += world_seconds();
    for (std::size_t s = 0; s < n; ++s) step = std::max(step, world + cost(s).ends.scale + cost(s).ends.updates());
    return std::max(step, shared_cores_seconds());
  }

  // On a CPU with more ranks than cores, the cores' total work is the other bound.
  double shared_cores_seconds() const {
    if (!cluster_.device.cpu || cluster_.device.cores <= 0) return 0;
    double work = 0;
    for (std::size_t i = 0; i < places_.size(); ++i) {
      const StageCost& s = cost(i);
      work += s.first.compute + static_cast<double>(micro_batches_ - 1) * s.later.compute + s.ends.computing();
    }
    work *= static_cast<double>(strategy_.tp * strategy_.dp * price_.threads);
    return work / cluster_.device.cores;
  }

  double embedding_seconds() const { return transfer_time(block::embedding_sum(shapes_), cluster_, strategy_).value; }
  double world_seconds() const {
    return strategy_.devices() > 1 ? transfer_time(block::world_sum(), cluster_, strategy_).value : 0;
  }

  void time(Estimate& e) const {
    double hop = 0;
    const Bytes hop_size = block::activation(shapes_, shapes_.split_rows);
    for (int64_t s = 0; s + 1 < strategy_.pp; ++s)
      hop = std::max(hop, transfer_time(Send{static_cast<int>(s), hop_size}, cluster_, strategy_).value);
    const double step = step_seconds(hop);
    const double without_hops = hop > 0 ? step_seconds(0) : step;

    // Where the time goes is told of the stage that computes longest.
    std::size_t busiest = 0;
    for (std::size_t s = 1; s < places_.size(); ++s)
      if (cost(s).later.total() > cost(busiest).later.total()) busiest = s;
    Cost sum = cost(busiest).first;
    sum.add(cost(busiest).later, static_cast<double>(micro_batches_ - 1));
    Time& t = e.time;
    t.step = {step};
    t.compute = {sum.compute};
    t.tp_comm = {sum.seconds(Axis::tp)};
    const bool holds_table = places_[busiest].first() || places_[busiest].last();
    const double embedding = strategy_.pp > 1 && shapes_.tied && holds_table ? embedding_seconds() : 0;
    const StageEnds& c = cost(busiest).ends;
    // What of the reductions, and of the gathers, computing does not hide.
    const double tied = embedding > 0 ? last_bucket_free(c, 0) + embedding : 0;
    const double reduces = std::max(0.0, norm_known(c, 0, tied) - c.norms - c.stats() - embedding);
    double arrival = 0;  // of the first micro-batch
    for (std::size_t s = 0; s < busiest; ++s) arrival += cost(s).ends.forward + hop;
    const double gathers = shapes_.shards > 1 ? std::max(0.0, weights_ready(c) - c.forward - arrival) : 0;
    t.tp_comm.value += c.norms;
    t.dp_comm = {reduces + gathers + world_seconds() + embedding};
    t.optimizer = {c.computing()};
    t.pp_comm = {std::max(0.0, step - without_hops)};
    const double told = t.compute.value + t.tp_comm.value + t.dp_comm.value + t.optimizer.value + t.pp_comm.value;
    t.bubble = {std::max(0.0, step - told)};

    if (c.norms > 0) sum.add(block::norms_sum(c.buckets), c.norms, 1);
    for (std::size_t r = 0; r < c.bucket.size(); ++r) {
      const auto [count, elements, layers_in] = c.buckets.runs[r];
      if (count == 0) continue;
      if (shapes_.dp > 1) sum.add(block::bucket_sum(shapes_, elements), c.bucket[r].reduce, static_cast<double>(count));
      if (shapes_.shards > 1) sum.add(block::bucket_gather(shapes_, elements), c.bucket[r].gather, static_cast<double>(count));
    }
    communication(e, sum, hop, hop_size, embedding, reduces, gathers);
  }

  // `reduces`, `gathers`: exposed seconds of the dp group's collectives.
  void communication(Estimate& e, const Cost& sum, double hop, Bytes hop_size, double embedding, double reduces,
                     double gathers) const {
    e.communication.reserve(8);
    const auto add = [&](std::string_view group, std::string_view kind, Cost::Sum s, double exposed) {
      e.communication.push_back({std::string(group), std::string(kind), {static_cast<int64_t>(s.bytes)}, static_cast<int64_t>(s.count),
                                 {s.seconds}, {exposed}});
    };
    for (std::size_t a = 0; a < kAxes; ++a)
      for (std::size_t k = 0; k < kKinds; ++k) {
        const Cost::Sum& s = sum.collectives[a][k];
        const auto axis = static_cast<Axis>(a);
        const auto kind = static_cast<Collective::Kind>(k);
        if (s.count > 0)
          add(name_of(axis), name_of(kind), s,
              axis != Axis::dp ? s.seconds : kind == Collective::Kind::all_gather ? gathers : reduces);
      }
    if (embedding > 0)
      add("embedding", "all_reduce", {embedding, static_cast<double>(block::embedding_sum(shapes_).size.value), 1}, embedding);
    if (strategy_.devices() > 1) add("world", "all_reduce", {world_seconds(), 24, 1}, world_seconds());
    if (strategy_.pp > 1) {
      // A stage between the ends sends one activation down and one gradient up per micro-batch.
      const double count = static_cast<double>(micro_batches_ * (strategy_.pp > 2 ? 2 : 1));
      add("pp", "send", {hop * count, static_cast<double>(hop_size.value) * count, count}, e.time.pp_comm.value);
    }
  }

  const ModelConfig& model_;
  const Cluster& cluster_;
  const Workload& workload_;
  const Strategy& strategy_;
  Shapes shapes_;
  Pricer price_;
  int64_t micro_batches_;
  std::vector<StagePass> passes_;     // by stage
  StageEnds::Bucket priced_bucket_;
  int64_t priced_elements_ = 0;
  const StageCost& cost(std::size_t stage) const { return costs_[cost_of_[stage]]; }
  std::vector<StagePlace> places_;    // by stage
  std::vector<std::size_t> cost_of_;  // by stage: which of
  std::vector<StageCost> costs_;      // the stages that differ
};

// Rates that follow from the step time.
void rates(Estimate& e, const ModelConfig& m, const Cluster& c, const Workload& w) {
  const double tokens = static_cast<double>(w.global_batch) * static_cast<double>(sequence_length(m, w));
  const double step = e.time.step.value, devices = static_cast<double>(e.strategy.devices());
  e.flops = step_flops(m, w, e.strategy);
  e.tokens_per_s = tokens / step;
  e.tokens_per_s_per_device = e.tokens_per_s / devices;
  const double rate = e.flops.model_causal.value / step / devices;
  e.tflops_per_device = rate * 1e-12;
  if (const FlopsPerSecond peak = peak_of_rank(c, w.precision, e.strategy.devices()); peak.value > 0) {
    e.mfu = rate / peak.value;
    e.hfu = e.flops.hardware.value / step / devices / peak.value;
  }
  if (w.tokens > 0) e.days = static_cast<double>(w.tokens) / e.tokens_per_s / 86400;
}

}  // namespace

std::variant<Estimate, Infeasible> estimate(const ModelConfig& m, const Cluster& c, const Workload& w,
                                            const Strategy& s, const Runtime& r) {
  if (Infeasible broken = check(m, c, w, s); !broken.constraint.empty()) return broken;
  Estimate e = r.lowered && c.parts.empty() && why_not_lowerable(m, w, s).empty() ? ProgramEstimate(m, c, w, s).run()
                                                              : runtime_estimate(m, c, w, s, r);
  e.fits = e.memory.capacity.value <= 0 || e.memory.peak <= e.memory.capacity;
  if (!e.fits) e.reason = over_by(e.memory);
  rates(e, m, c, w);
  return e;
}

std::variant<Estimate, Infeasible> estimate(const ModelConfig& m, const Cluster& c, const Workload& w,
                                            const Strategy& s) {
  static const Runtime own = [] {
    Runtime r;
    r.lowered = true;
    return r;
  }();
  return estimate(m, c, w, s, own);
}

std::string why_not_lowerable(const ModelConfig& m, const Workload& w, const Strategy& s) {
  if (std::string why = why_not_runnable(m); !why.empty()) return why;
  if (s.cp > 1) return "context parallelism";
  if (s.ep > 1 || s.etp > 0) return "expert parallelism";
  if (s.zero_groups != ZeroGroups{}) return "hierarchical ZeRO";
  if (s.vpp > 1 || s.schedule == Schedule::interleaved) return "interleaved stages";
  if (s.schedule == Schedule::zb_h1) return "the zero-bubble schedule";
  if (s.zero >= 2) return "ZeRO-2 and ZeRO-3";
  if (s.recompute == Recompute::selective) return "selective recomputation";
  if (s.attention != AttentionKernel::flash) return "unfused attention";
  if (s.offload != Offload{}) return "offloading";
  if (w.optimizer.kind != OptimizerKind::adamw && w.optimizer.kind != OptimizerKind::adamw_lean)
    return "optimizers other than AdamW";
  if (w.optimizer.kind == OptimizerKind::adamw_lean && w.precision != DType::bf16 && !is_fp8(w.precision))
    return "lean AdamW with weights other than bf16";
  if (m.num_key_value_heads % s.tp != 0) return "key/value heads that tp does not divide";
  if (is_fp8(w.precision) && (s.micro_batch * sequence_length(m, w) % 16 != 0 || m.hidden_size % 16 != 0 ||
                              m.head_dim * m.num_attention_heads / s.tp % 16 != 0 || m.intermediate_size / s.tp % 16 != 0 ||
                              m.head_dim * m.num_key_value_heads / s.tp % 16 != 0))
    return "fp8 with tokens of a micro-batch or widths of layers that 16 does not divide";
  return {};
}

}  // namespace llmplan
