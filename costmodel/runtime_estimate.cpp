#include "costmodel/runtime_estimate.h"

#include <cmath>

#include "costmodel/group.h"
#include "costmodel/layer_cost.h"
#include "costmodel/pipeline.h"

namespace llmplan {
namespace {

using std::int64_t;
using Kind = Collective::Kind;

double d(int64_t n) { return static_cast<double>(n); }
Bytes bytes(double n) { return {static_cast<int64_t>(std::llround(std::min(n, 9e18)))}; }

// What one parameter costs in optimizer state, beside an fp32 master copy.
double state_bytes(OptimizerKind kind) {
  switch (kind) {
    case OptimizerKind::adamw: return 8;       // two fp32 moments
    case OptimizerKind::lion: return 4;        // one
    case OptimizerKind::sgd: return 0;         // without momentum
    case OptimizerKind::adamw_8bit: return 2;  // two int8 moments; a scale per 256 of them is 1.6 % more
    case OptimizerKind::adafactor: return 0;   // row and column sums only
  }
  return 0;
}

struct Stage {
  int64_t dense = 0, moe = 0;  // layers
  bool first = false, last = false;
  int64_t layers() const { return dense + moe; }
};

// Exposed seconds of one pass of one micro-batch.
struct PassTime {
  double compute = 0, tp = 0, cp = 0, ep = 0, dp = 0, pp = 0, host = 0, weight_gradients = 0;
  double total() const { return compute + tp + cp + ep + dp + pp + host; }
};

class RuntimeEstimate {
 public:
  RuntimeEstimate(const ModelConfig& m, const Cluster& c, const Workload& w, const Strategy& s, const Runtime& r)
      : model_(m), cluster_(c), workload_(w), strategy_(s), runtime_(r), price_(c, s), dims_(dims_of(m, w, s, r)),
        micro_batches_(w.global_batch / (s.dp * s.micro_batch)), shards_(d(s.dp * s.cp)) {}

  Estimate run() {
    Estimate e;
    e.strategy = strategy_;
    e.strategy.layers_per_stage = layer_split(strategy_, model_.num_hidden_layers);
    find_stages(e.strategy.layers_per_stage);
    price();
    memory(e);
    time(e);
    e.uncertainty_time = runtime_.uncertainty_time;
    e.uncertainty_memory = runtime_.uncertainty_memory;
    return e;
  }

 private:
  // ---- Which layers are where. Chunk c of stage s is entry c·pp + s.
  void find_stages(const std::vector<int64_t>& split) {
    const int64_t pp = strategy_.pp;
    stages_.resize(static_cast<std::size_t>(pp));
    stages_.front().first = stages_.back().last = true;
    int64_t layer = 0;
    for (std::size_t i = 0; i < split.size(); ++i) {
      Stage& stage = stages_[i % static_cast<std::size_t>(pp)];
      if (model_.num_experts == 0) {
        stage.dense += split[i];
        continue;
      }
      for (const int64_t end = layer + split[i]; layer < end; ++layer)
        ++(is_moe_layer(model_, layer) ? stage.moe : stage.dense);
    }
  }

  double recomputed_share(const Stage& s) const {
    if (strategy_.recompute == Recompute::none) return 0;
    if (strategy_.recompute_layers == 0 || s.layers() == 0) return 1;
    return std::min(1.0, d(strategy_.recompute_layers) / d(s.layers()));
  }

  // ---- Weights on one rank
  struct Weights { double dense = 0, experts = 0; double all() const { return dense + experts; } };
  Weights weights(const Stage& s) const {
    Weights w;
    w.dense = d(s.dense) * dense_layer_.dense + d(s.moe) * moe_layer_.dense;
    w.experts = d(s.moe) * moe_layer_.experts;
    if (s.first) w.dense += table_ + d(model_.position_rows) * dims_.hidden;
    if (s.last && !(model_.tie_word_embeddings && s.first)) w.dense += table_;
    if (s.last) w.dense += dims_.hidden;
    return w;
  }
  double expert_shards() const { return std::max(1.0, shards_ / dims_.ep); }

  void price() {
    has_dense_ = has_moe_ = false;
    for (const Stage& s : stages_) has_dense_ |= s.dense > 0, has_moe_ |= s.moe > 0;
    if (has_dense_) dense_ = price_layer(model_, dims_, strategy_, runtime_, price_, false);
    if (has_moe_) moe_ = price_layer(model_, dims_, strategy_, runtime_, price_, true);
    dense_layer_ = layer_weights(model_, strategy_, false);
    if (has_moe_) moe_layer_ = layer_weights(model_, strategy_, true);
    table_ = table_weights(model_, strategy_, runtime_);
  }

  // ---- Memory
  void memory(Estimate& e) const {
    e.memory_per_stage.reserve(stages_.size());
    for (std::size_t i = 0; i < stages_.size(); ++i) e.memory_per_stage.push_back(stage_memory(static_cast<int64_t>(i)));
    const Memory* peak = &e.memory_per_stage.front();
    for (const Memory& m : e.memory_per_stage)
      if (m.peak > peak->peak) peak = &m;
    e.memory = *peak;
  }

  // Micro-batches whose activations stage `i` holds at once; a fraction where chunks interleave.
  double flying(int64_t i) const {
    const double m = d(micro_batches_), pp = d(strategy_.pp), v = d(strategy_.vpp);
    if (strategy_.vpp > 1)  // Megatron's warm-up, in chunks: 2(p−i−1) + (v−1)p, and the one in progress
      return std::min(m, (2 * (pp - d(i) - 1) + (v - 1) * pp + 1) / v);
    return d(in_flight(strategy_.schedule, i, strategy_.pp, micro_batches_));
  }

  Memory stage_memory(int64_t i) const {
    const Stage& s = stages_[static_cast<std::size_t>(i)];
    const Strategy& st = strategy_;
    const Runtime& r = runtime_;
    const Weights w = weights(s);
    const double e = dims_.element;
    const auto sharded = [&](double per_parameter, int from) {
      if (st.zero < from) return per_parameter * w.all();
      return per_parameter * (w.dense / shards_ + w.experts / expert_shards());
    };
    const bool whole_fp32 = e == 4;
    Memory m;
    m.peak_stage = static_cast<int>(i);
    m.capacity = cluster_.device.memory;
    const bool fp32_parameters = r.fp32_parameters && st.zero >= 3 && shards_ > 1 && !st.offload.optimizer;
    if (!st.offload.weights) m.weights = bytes(sharded(fp32_parameters ? 4 : e, 3));
    if (!st.offload.gradients) m.gradients = bytes(sharded(whole_fp32 ? 4 : r.gradient_bytes, 2));
    const double master = r.master_weights && !whole_fp32 && !fp32_parameters ? 4 : 0;
    if (!st.offload.optimizer) m.optimizer = bytes(sharded(state_bytes(workload_.optimizer.kind) + master, 1));

    // Activations: what every micro-batch in flight keeps, and what the fullest layer needs on top.
    const double share = recomputed_share(s);
    const auto kept = [&](bool moe) {
      const double whole = kept_bytes(model_, dims_, r, Recompute::none, moe);
      if (share == 0) return whole;
      return (1 - share) * whole + share * kept_bytes(model_, dims_, r, st.recompute, moe);
    };
    double saved = 0;
    if (s.dense > 0) saved += d(s.dense) * kept(false);
    if (s.moe > 0) saved += d(s.moe) * kept(true);
    const double stream = dims_.split_rows * dims_.hidden * e;
    double in_layer = 2 * stream;  // the gradient that travels up, and its copy
    in_layer += e * (s.moe > 0 ? dims_.expert_rows * dims_.expert_ffn : dims_.rows * dims_.ffn) * (dims_.gated ? 2 : 1);
    if (share > 0) in_layer += std::max(0.0, kept_bytes(model_, dims_, r, Recompute::none, s.moe > 0) - kept(s.moe > 0));
    double activations = flying(i) * saved;
    if (st.offload.activations) activations = std::min(activations, saved / std::max(1.0, d(s.layers())) * 2);
    const double logits = s.last ? dims_.rows * dims_.vocab * (r.whole_logits ? dims_.tp : 1) * r.logits_bytes : 0;
    m.activations = bytes(activations);
    // The peak is at the loss or in the fullest layer's backward, whichever needs more.
    double buffers = s.last ? 2 * stream : 0;  // the final norm's input and output
    if (logits > in_layer)
      m.logits = bytes(logits);
    else
      buffers += in_layer;
    buffers += static_cast<double>(r.bucket.value) * (dims_.dp > 1 ? 1 : 0);
    if (st.zero >= 3 && shards_ > 1) {
      const double layer = std::max(has_dense_ ? dense_layer_.dense : 0.0, has_moe_ ? moe_layer_.dense + moe_layer_.experts : 0.0);
      buffers += e * (r.zero3_layers * layer + (s.first || s.last ? table_ : 0));
    }
    if (r.gradient_placeholders && r.gradient_bytes >= 4) {
      double shapes = s.last ? table_ : 0;
      shapes += s.moe > 0 ? moe_layer_.dense + moe_layer_.experts / std::max(1.0, dims_.local_experts) : dense_layer_.dense;
      buffers += e * shapes;
    }
    m.buffers = bytes(buffers);
    const double alive = static_cast<double>((m.weights + m.gradients + m.optimizer + m.activations + m.logits + m.buffers).value);
    m.reserve = cluster_.device.reserve + r.reserve + bytes(alive * r.fragmentation);
    m.peak = m.weights + m.gradients + m.optimizer + m.activations + m.logits + m.buffers + m.reserve;
    return m;
  }

  // ---- Time
  // The share of `comm` that shows when up to `overlap` of it may hide behind `compute`.
  static double exposed(double comm, double overlap, double compute) {
    return comm - std::min(comm * overlap, compute);
  }

  PassTime pass_time(const Stage& s, bool backward, double gather, double hop) const {
    const Runtime& r = runtime_;
    PassTime t;
    double tp = 0, cp = 0, ep = 0, kernels = 0, attention = 0;
    const auto add = [&](const PassCost& p, double n) {
      t.compute += n * p.compute();
      t.weight_gradients += n * p.weight_gradients;
      attention += n * p.attention;
      tp += n * p.comm.seconds(Axis::tp);
      cp += n * p.comm.seconds(Axis::cp);
      ep += n * p.comm.seconds(Axis::ep);
      kernels += n * p.kernels;
    };
    const double share = recomputed_share(s);
    if (!backward) {
      add(dense_.forward, d(s.dense));
      add(moe_.forward, d(s.moe));
    } else {
      add(dense_.backward, d(s.dense));
      add(moe_.backward, d(s.moe));
      add(dense_.recompute, d(s.dense) * share);
      add(moe_.recompute, d(s.moe) * share);
    }
    const double table_traffic = dims_.rows * dims_.hidden * dims_.element;
    if (s.first) t.compute += price_.pointwise((backward ? 6 : 2) * table_traffic), kernels += 3;
    if (s.last) {
      const double h = dims_.hidden, v = dims_.vocab, logits = dims_.rows * v;
      const DType type = dims_.element == 4 ? DType::fp32 : DType::bf16;
      const auto n = [](double x) { return std::max<int64_t>(1, std::llround(x)); };
      if (!backward) {
        t.compute += price_.seconds(Gemm{n(dims_.rows), n(v), n(h), false, true, false, type, type});
      } else {
        t.compute += price_.seconds(Gemm{n(dims_.rows), n(h), n(v), false, false, false, type, type});
        const double dw = price_.seconds(Gemm{n(v), n(h), n(dims_.rows), true, false, true, type, DType::fp32});
        t.compute += dw;
        t.weight_gradients += dw;
      }
      t.compute += price_.pointwise(logits * r.loss_bytes / 2);
      kernels += 10;
    }
    t.compute += kernels * cluster_.device.launch.value;
    t.tp = tp * (1 - r.tp_overlap);
    t.cp = exposed(cp, r.cp_overlap, attention);
    t.ep = ep * (1 - r.ep_overlap);
    t.pp = hop * (1 - r.pp_overlap);
    const double host = kernels * r.dispatch.value + r.micro_batch_overhead.value / 2;
    t.host = std::max(0.0, host - t.compute - t.tp - t.cp - t.ep);
    t.dp = exposed(gather, r.gather_overlap, t.compute + t.host);  // the wire is free while the host dawdles
    return t;
  }

  double transfer(Kind kind, Axis axis, double size) const {
    if (size < 1) return 0;
    return transfer_time(Collective{kind, axis, {static_cast<int64_t>(std::min(size, 9e18))}, DType::bf16}, cluster_, strategy_).value;
  }

  // A collective over the ranks that hold the same expert, as a share of that over all of dp.
  struct GradientTime { double reduce = 0, gather = 0; };

  double optimizer_seconds(const Weights& w) const {
    const Runtime& r = runtime_;
    const double shards = strategy_.zero >= 1 ? shards_ : 1, expert_shards_here = strategy_.zero >= 1 ? expert_shards() : 1;
    const double mine = w.dense / shards + w.experts / expert_shards_here;
    const bool fp32 = dims_.element == 4;
    // gradient read twice (norm, update), states and fp32 weight read and written, weight written
    const double update = 2 * r.gradient_bytes + 2 * state_bytes(workload_.optimizer.kind) + 8 + (fp32 ? 0 : 2);
    const double zeroing = r.gradient_bytes * (strategy_.zero >= 2 ? mine : w.all());
    double t = price_.pointwise((update * mine + zeroing) * r.optimizer_traffic);
    if (strategy_.offload.optimizer) {  // gradients go to the host, weights come back
      const BytesPerSecond host = cluster_.device.host_bandwidth;
      const double rate = host.value > 0 ? host.value : cluster_.inter.bandwidth.value;
      if (rate > 0) t += mine * (r.gradient_bytes + 2) / rate;
    }
    return t;
  }

  void time(Estimate& e) const {
    const Runtime& r = runtime_;
    const Strategy& st = strategy_;
    const double m = d(micro_batches_), pp = d(st.pp), v = d(st.vpp);

    double hop_bytes = dims_.split_rows * dims_.hidden * dims_.element;
    if (r.split_transfers && !dims_.sp) hop_bytes /= dims_.tp;
    double hop = 0;
    if (st.pp > 1)
      for (int64_t s = 0; s + 1 < st.pp; ++s)
        hop = std::max(hop, transfer_time(Send{static_cast<int>(s), bytes(hop_bytes)}, cluster_, st).value);

    const std::size_t n = stages_.size();
    struct Timed { PassTime forward, backward; double gather = 0, reduce_each = 0; };
    std::vector<Timed> timed(n);
    std::vector<StagePass> passes(n);
    std::size_t busiest = 0;
    double w_max = 0;
    for (std::size_t i = 0; i < n; ++i) {
      if (i > 1 && i + 1 < n && stages_[i].dense == stages_[i - 1].dense && stages_[i].moe == stages_[i - 1].moe) {
        timed[i] = timed[i - 1];
      } else {
        const Weights w = weights(stages_[i]);
        Timed& t = timed[i];
        double forward_gather = 0, backward_gather = 0;
        if (shards_ > 1 && st.zero >= 3) {
          t.gather = transfer(Kind::all_gather, Axis::dp, w.dense * 2) +
                     transfer(Kind::all_gather, Axis::dp, w.experts * 2 / dims_.ep);
          forward_gather = t.gather;
          backward_gather = r.zero3_gathers_twice ? t.gather : 0;
        }
        if (shards_ > 1 && (st.zero >= 3 || (st.zero == 2 && r.reduce_every_micro_batch))) {
          t.reduce_each = transfer(Kind::reduce_scatter, Axis::dp, w.dense * r.gradient_comm_bytes) +
                          transfer(Kind::reduce_scatter, Axis::dp, w.experts * r.gradient_comm_bytes / dims_.ep);
          backward_gather += t.reduce_each;
        }
        const double hops = st.pp > 1 ? hop * v : 0;
        t.forward = pass_time(stages_[i], false, forward_gather, stages_[i].last ? 0 : hops);
        t.backward = pass_time(stages_[i], true, backward_gather, stages_[i].first ? 0 : hops);
      }
      passes[i] = {timed[i].forward.total(), timed[i].backward.total()};
      if (passes[i].forward + passes[i].backward > passes[busiest].forward + passes[busiest].backward) busiest = i;
      // Where the host sets the pace, it does so for weight gradients, too.
      const PassTime& b = timed[i].backward;
      if (b.compute > 0) w_max = std::max(w_max, b.weight_gradients * (1 + b.host / b.compute));
    }
    const double slowest = passes[busiest].forward + passes[busiest].backward;

    double pipeline = 0;
    if (st.pp == 1) {
      pipeline = m * slowest;
    } else if (st.schedule == Schedule::interleaved) {
      // Narayanan et al. 2021, §2.2: the bubble shrinks by the number of chunks.
      pipeline = m * slowest + (pp - 1) * (slowest + 2 * hop * r.pp_overlap) / v;
    } else if (st.schedule == Schedule::zb_h1) {
      // Qi et al. 2023, table 2: (p−1)(T_F + T_B − T_W), T_B being the input's gradient alone.
      pipeline = m * slowest + (pp - 1) * std::max(0.0, slowest - 2 * w_max + 2 * hop * r.pp_overlap);
    } else {
      std::vector<double> ends(n);
      pipeline_ends(st.schedule, passes, micro_batches_, hop * r.pp_overlap, ends);
      pipeline = *std::max_element(ends.begin(), ends.end());
    }

    // The end of the step, on the stage with the most weights.
    double reduce = 0, gather = 0, optimizer = 0;
    Weights most;
    for (const Stage& s : stages_)
      if (const Weights w = weights(s); w.all() >= most.all()) most = w;
    if (shards_ > 1 && st.zero <= 2 && !(st.zero == 2 && r.reduce_every_micro_batch)) {
      const Kind kind = st.zero >= 1 ? Kind::reduce_scatter : Kind::all_reduce;
      reduce = transfer(kind, Axis::dp, most.dense * r.gradient_comm_bytes) +
               transfer(kind, Axis::dp, most.experts * r.gradient_comm_bytes / dims_.ep);
      if (st.zero >= 1)
        gather = transfer(Kind::all_gather, Axis::dp, most.dense * 2) + transfer(Kind::all_gather, Axis::dp, most.experts * 2 / dims_.ep);
    }
    double tied = 0;
    if (model_.tie_word_embeddings && st.pp > 1) tied = transfer(Kind::all_reduce, Axis::embedding, table_ * r.gradient_comm_bytes);
    optimizer = optimizer_seconds(most);
    const Timed& b = timed[busiest];
    const double reduce_shown = exposed(reduce, r.dp_overlap, b.backward.compute + b.backward.host);
    const double gather_shown = exposed(gather, r.gather_overlap, b.forward.compute + b.forward.host);

    Time& t = e.time;
    t.compute = {m * (b.forward.compute + b.backward.compute)};
    t.tp_comm = {m * (b.forward.tp + b.backward.tp)};
    t.cp_comm = {m * (b.forward.cp + b.backward.cp)};
    t.ep_comm = {m * (b.forward.ep + b.backward.ep)};
    t.pp_comm = {m * (b.forward.pp + b.backward.pp)};
    t.dp_comm = {m * (b.forward.dp + b.backward.dp) + reduce_shown + gather_shown + tied};
    t.host = {m * (b.forward.host + b.backward.host) + r.step_overhead.value};
    t.optimizer = {optimizer};
    t.bubble = {std::max(0.0, pipeline - m * slowest)};
    if (cluster_.nodes > 1 && r.straggling > 0) {  // everyone waits for the slowest
      const double now = t.compute.value + t.tp_comm.value + t.cp_comm.value + t.ep_comm.value + t.pp_comm.value +
                         t.dp_comm.value + t.host.value + t.optimizer.value + t.bubble.value;
      t.dp_comm.value += now * r.straggling * std::log2(d(cluster_.nodes));
    }
    t.step = t.compute + t.tp_comm + t.cp_comm + t.ep_comm + t.pp_comm + t.dp_comm + t.host + t.optimizer + t.bubble;

    communication(e, stages_[busiest], b.forward, b.backward, hop, hop_bytes);
    const auto dp = [&](Kind kind, double size, double times, double seconds, double shown) {
      if (seconds <= 0) return;
      e.communication.push_back({"dp", std::string(name_of(kind)), bytes(size * times), static_cast<int64_t>(times), {seconds * times}, {shown}});
    };
    const Weights w = weights(stages_[busiest]);
    const double gathers = r.zero3_gathers_twice ? 2 * m : m;
    const double each_shown = m * (b.forward.dp + b.backward.dp), each_all = b.gather * gathers + b.reduce_each * m;
    dp(Kind::all_gather, w.all() * 2, gathers, b.gather, each_all > 0 ? each_shown * b.gather * gathers / each_all : 0);
    dp(Kind::reduce_scatter, w.all() * r.gradient_comm_bytes, m, b.reduce_each, each_all > 0 ? each_shown * b.reduce_each * m / each_all : 0);
    dp(st.zero >= 1 ? Kind::reduce_scatter : Kind::all_reduce, most.all() * r.gradient_comm_bytes, 1, reduce, reduce_shown);
    dp(Kind::all_gather, most.all() * 2, 1, gather, gather_shown);
    if (tied > 0)
      e.communication.push_back({"embedding", "all_reduce", bytes(table_ * r.gradient_comm_bytes), 1, {tied}, {tied}});
  }

  void communication(Estimate& e, const Stage& s, const PassTime& f, const PassTime& b, double hop, double hop_bytes) const {
    Cost sum;
    const double m = d(micro_batches_), share = recomputed_share(s);
    sum.add(dense_.forward.comm, m * d(s.dense));
    sum.add(dense_.backward.comm, m * d(s.dense));
    sum.add(dense_.recompute.comm, m * d(s.dense) * share);
    sum.add(moe_.forward.comm, m * d(s.moe));
    sum.add(moe_.backward.comm, m * d(s.moe));
    sum.add(moe_.recompute.comm, m * d(s.moe) * share);
    for (const Axis axis : {Axis::tp, Axis::cp, Axis::ep}) {
      const double all = sum.seconds(axis);
      if (all <= 0) continue;
      const double shown = m * (axis == Axis::tp ? f.tp + b.tp : axis == Axis::cp ? f.cp + b.cp : f.ep + b.ep);
      for (std::size_t k = 0; k < kKinds; ++k) {
        const Cost::Sum& c = sum.collectives[static_cast<std::size_t>(axis)][k];
        if (c.count <= 0) continue;
        e.communication.push_back({std::string(name_of(axis)), std::string(name_of(static_cast<Kind>(k))), bytes(c.bytes),
                                   std::llround(c.count), {c.seconds}, {shown * c.seconds / all}});
      }
    }
    if (strategy_.pp > 1) {
      const double count = m * d(strategy_.vpp) * (strategy_.pp > 2 ? 2 : 1);
      e.communication.push_back({"pp", "send", bytes(hop_bytes * count), std::llround(count), {hop * count}, {m * (f.pp + b.pp)}});
    }
  }

  const ModelConfig& model_;
  const Cluster& cluster_;
  const Workload& workload_;
  const Strategy& strategy_;
  const Runtime& runtime_;
  Pricer price_;
  Dims dims_;
  int64_t micro_batches_;
  double shards_;
  std::vector<Stage> stages_;
  bool has_dense_ = false, has_moe_ = false;
  LayerPasses dense_, moe_;
  LayerWeights dense_layer_, moe_layer_;
  double table_ = 0;
};

}  // namespace

Estimate runtime_estimate(const ModelConfig& m, const Cluster& c, const Workload& w, const Strategy& s, const Runtime& r) {
  return RuntimeEstimate(m, c, w, s, r).run();
}

}  // namespace llmplan
