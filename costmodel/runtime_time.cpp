// Where the step's time goes: passes of the busiest stage, the pipeline's bubble, and the end of the step.
#include "costmodel/pipeline.h"
#include "costmodel/runtime_case.h"

namespace llmplan {
namespace {

using std::int64_t;
using Kind = Collective::Kind;

double d(int64_t n) { return static_cast<double>(n); }

// Exposed seconds of one pass of one micro-batch.
struct PassTime {
  double compute = 0, tp = 0, cp = 0, ep = 0, dp = 0, pp = 0, host = 0, weight_gradients = 0;
  double total() const { return compute + tp + cp + ep + dp + pp + host; }
};

// The share of `comm` that shows when up to `overlap` of it may hide behind `compute`.
double exposed(double comm, double overlap, double compute) {
  return comm - std::min(comm * overlap, compute);
}

PassTime pass_time(const RuntimeCase& c, const Stage& s, bool backward, double gather, double hop) {
  const Runtime& r = c.runtime;
  PassTime t;
  double tp = 0, cp = 0, ep = 0, kernels = 0, collectives = 0, attention = 0;
  const auto add = [&](const PassCost& p, double n) {
    t.compute += n * p.compute();
    t.weight_gradients += n * p.weight_gradients;
    attention += n * p.attention;
    tp += n * p.comm.seconds(Axis::tp);
    cp += n * p.comm.seconds(Axis::cp);
    ep += n * p.comm.seconds(Axis::ep);
    kernels += n * p.kernels;
    collectives += n * p.collectives;
  };
  const double share = c.recomputed_share(s);
  if (!backward) {
    add(c.dense.forward, d(s.dense));
    add(c.moe.forward, d(s.moe));
  } else {
    add(c.dense.backward, d(s.dense));
    add(c.moe.backward, d(s.moe));
    add(c.dense.recompute, d(s.dense) * share);
    add(c.moe.recompute, d(s.moe) * share);
  }
  const double table_traffic = c.dims.rows * c.dims.hidden * c.dims.element;
  if (s.first) t.compute += c.price.pointwise((backward ? 6 : 2) * table_traffic), kernels += 3;
  if (s.last) {
    const double h = c.dims.hidden, v = c.dims.vocab, logits = c.dims.rows * v;
    const DType type = c.dims.element == 4 ? DType::fp32 : DType::bf16;
    const auto n = [](double x) { return std::max<int64_t>(1, std::llround(x)); };
    if (!backward) {
      t.compute += c.price.seconds(Gemm{n(c.dims.rows), n(v), n(h), false, true, false, type, type});
    } else {
      t.compute += c.price.seconds(Gemm{n(c.dims.rows), n(h), n(v), false, false, false, type, type});
      const double dw = c.price.seconds(Gemm{n(v), n(h), n(c.dims.rows), true, false, true, type, DType::fp32});
      t.compute += dw;
      t.weight_gradients += dw;
    }
    t.compute += c.price.pointwise(logits * r.loss_bytes / 2);
    kernels += 10;
  }
  t.compute += kernels * c.cluster.device.launch.value;
  t.tp = tp * (1 - (c.tp_overlaps ? r.tp_overlap : 0));
  t.cp = exposed(cp, r.cp_overlap, attention);
  t.ep = ep * (1 - r.ep_overlap);
  t.pp = hop * (1 - r.pp_overlap);
  const double host = kernels * r.dispatch.value + collectives * r.collective_dispatch.value + r.micro_batch_overhead.value / 2;
  const double device = t.compute + t.tp + t.cp + t.ep;
  t.host = std::max(0.0, host - device) + (c.dims.tp > 1 ? r.lockstep * std::min(host, device) : 0);
  t.dp = exposed(gather, r.gather_overlap, t.compute + t.host);  // the wire is free while the host dawdles
  return t;
}

double transfer(const RuntimeCase& c, Kind kind, Axis axis, double size) {
  if (size < 1) return 0;
  return transfer_time(Collective{kind, axis, {static_cast<int64_t>(std::min(size, 9e18))}, DType::bf16}, c.cluster, c.strategy, c.runtime.rings_only).value;
}


double over(const RuntimeCase& c, const Group& g, Kind kind, double size) {
  return group_seconds(kind, size, g, c.cluster, c.runtime.rings_only);
}

// Bytes per parameter on the wire; ZeRO++ (Wang et al. 2023) quantises, its scales (one per block) are left out.
double weight_wire_bytes(const RuntimeCase& c) {
  return c.strategy.zero_groups.weight_bits > 0 ? c.strategy.zero_groups.weight_bits / 8.0 : 2;
}
double gradient_wire_bytes(const RuntimeCase& c) {
  return c.strategy.zero_groups.gradient_bits > 0 ? c.strategy.zero_groups.gradient_bits / 8.0 : c.runtime.gradient_comm_bytes;
}

// Weights from those that share them. With ZeRO++'s second copy, backward passes gather from that instead.
double gather_weights(const RuntimeCase& c, const StageWeights& w, bool from_copy) {
  if (from_copy) return over(c, c.groups.secondary, Kind::all_gather, w.all() * weight_wire_bytes(c));
  return over(c, c.groups.shard, Kind::all_gather, w.dense * weight_wire_bytes(c)) +
         over(c, c.groups.expert_shard, Kind::all_gather, w.experts * weight_wire_bytes(c));
}

// Gradients to those that share them.
double scatter_gradients(const RuntimeCase& c, const StageWeights& w) {
  return over(c, c.groups.shard, Kind::reduce_scatter, w.dense * gradient_wire_bytes(c)) +
         over(c, c.groups.expert_shard, Kind::reduce_scatter, w.experts * gradient_wire_bytes(c));
}

// The same share of the gradients over all that hold it: everything, where nothing is shared.
double sum_gradients(const RuntimeCase& c, const StageWeights& w) {
  const double bytes = gradient_wire_bytes(c);
  if (c.strategy.zero == 0) return transfer(c, Kind::all_reduce, Axis::dp, w.dense * bytes) +
                                   over(c, c.groups.expert_shard, Kind::all_reduce, w.experts * bytes);
  return over(c, c.groups.replica, Kind::all_reduce, w.dense * bytes / c.shards) +
         over(c, c.groups.expert_replica, Kind::all_reduce, w.experts * bytes / c.expert_shards());
}

double optimizer_seconds(const RuntimeCase& c, const StageWeights& w) {
  const Runtime& r = c.runtime;
  const double shards = c.strategy.zero >= 1 ? c.shards : 1, expert_shards_here = c.strategy.zero >= 1 ? c.expert_shards() : 1;
  const double mine = w.dense / shards + w.experts / expert_shards_here;
  const bool fp32 = c.dims.element == 4;
  // gradient read twice (norm, update), states and fp32 weight read and written, weight written
  const double update = 2 * r.gradient_bytes + 2 * state_bytes(c.workload.optimizer.kind) + 8 + (fp32 ? 0 : 2);
  const double zeroing = r.gradient_bytes * (c.strategy.zero >= 2 ? mine : w.all());
  double t = c.price.pointwise((update * mine + zeroing) * r.optimizer_traffic);
  if (c.strategy.offload.optimizer) {  // gradients go to the host, weights come back
    const BytesPerSecond host = c.cluster.device.host_bandwidth;
    const double rate = host.value > 0 ? host.value : c.cluster.inter.bandwidth.value;
    if (rate > 0) t += mine * (r.gradient_bytes + 2) / rate;
  }
  return t;
}

void communication(const RuntimeCase& c, Estimate& e, const Stage& s, const PassTime& f, const PassTime& b, double hop, double hop_bytes) {
  Cost sum;
  const double m = d(c.micro_batches), share = c.recomputed_share(s);
  sum.add(c.dense.forward.comm, m * d(s.dense));
  sum.add(c.dense.backward.comm, m * d(s.dense));
  sum.add(c.dense.recompute.comm, m * d(s.dense) * share);
  sum.add(c.moe.forward.comm, m * d(s.moe));
  sum.add(c.moe.backward.comm, m * d(s.moe));
  sum.add(c.moe.recompute.comm, m * d(s.moe) * share);
  for (const Axis axis : {Axis::tp, Axis::cp, Axis::ep}) {
    const double all = sum.seconds(axis);
    if (all <= 0) continue;
    const double shown = m * (axis == Axis::tp ? f.tp + b.tp : axis == Axis::cp ? f.cp + b.cp : f.ep + b.ep);
    for (std::size_t k = 0; k < kKinds; ++k) {
      const Cost::Sum& c = sum.collectives[static_cast<std::size_t>(axis)][k];
      if (c.count <= 0) continue;
      e.communication.push_back({std::string(name_of(axis)), std::string(name_of(static_cast<Kind>(k))), rounded(c.bytes),
                                 std::llround(c.count), {c.seconds}, {shown * c.seconds / all}});
    }
  }
  if (c.strategy.pp > 1) {
    const double count = m * d(c.strategy.vpp) * (c.strategy.pp > 2 ? 2 : 1);
    e.communication.push_back({"pp", "send", rounded(hop_bytes * count), std::llround(count), {hop * count}, {m * (f.pp + b.pp)}});
  }
}

}  // namespace

double stage_seconds(const RuntimeCase& c, const Stage& s) {
  return pass_time(c, s, false, 0, 0).total() + pass_time(c, s, true, 0, 0).total();
}

void price_step(std::span<const RuntimeCase* const> of_stage, Estimate& e) {
  const RuntimeCase& c = *of_stage.front();
  const Runtime& r = c.runtime;
  const Strategy& st = c.strategy;
  const double m = d(c.micro_batches), pp = d(st.pp), v = d(st.vpp);

  double hop_bytes = c.dims.split_rows * c.dims.hidden * c.dims.element;
  if (r.split_transfers && !c.dims.sp) hop_bytes /= c.dims.tp;
  double hop = 0;
  if (st.pp > 1)
    for (int64_t s = 0; s + 1 < st.pp; ++s)
      hop = std::max(hop, transfer_time(Send{static_cast<int>(s), rounded(hop_bytes)}, c.cluster, st).value);

  const std::size_t n = c.stages.size();
  struct Timed { PassTime forward, backward; double gather = 0, gather_again = 0, reduce_each = 0; };
  std::vector<Timed> timed(n);
  std::vector<StagePass> passes(n);
  std::size_t busiest = 0;
  double w_max = 0;
  for (std::size_t i = 0; i < n; ++i) {
    const RuntimeCase& here = *of_stage[i];
    if (i > 1 && i + 1 < n && of_stage[i] == of_stage[i - 1] && c.stages[i].dense == c.stages[i - 1].dense &&
        c.stages[i].moe == c.stages[i - 1].moe) {
      timed[i] = timed[i - 1];
    } else {
      const StageWeights w = here.weights(c.stages[i]);
      Timed& t = timed[i];
      double forward_gather = 0, backward_gather = 0;
      if (st.zero >= 3) {
        t.gather = forward_gather = gather_weights(here, w, false);
        t.gather_again = !r.zero3_gathers_twice ? 0 : here.groups.secondary.size > 1 ? gather_weights(here, w, true) : t.gather;
        backward_gather = t.gather_again;
      }
      if (st.zero >= 3 || (st.zero == 2 && r.reduce_every_micro_batch)) {
        t.reduce_each = scatter_gradients(here, w);
        backward_gather += t.reduce_each;
      }
      const double hops = st.pp > 1 ? hop * v : 0;
      t.forward = pass_time(here, c.stages[i], false, forward_gather, c.stages[i].last ? 0 : hops);
      t.backward = pass_time(here, c.stages[i], true, backward_gather, c.stages[i].first ? 0 : hops);
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
    pipeline_ends(st.schedule, passes, c.micro_batches, hop * r.pp_overlap, ends);
    pipeline = *std::max_element(ends.begin(), ends.end());
  }

  // The end of the step, on the stage with the most weights; of several device types, on the one that takes longest.
  double reduce = 0, gather = 0, optimizer = 0, copies = 0, longest = -1;
  StageWeights most;
  const bool once = st.zero >= 1 && st.zero <= 2 && !(st.zero == 2 && r.reduce_every_micro_batch);
  for (std::size_t i = 0; i < n;) {
    const RuntimeCase& here = *of_stage[i];
    StageWeights w;
    for (; i < n && of_stage[i] == &here; ++i)
      if (const StageWeights of = here.weights(c.stages[i]); of.all() >= w.all()) w = of;
    const double summed = sum_gradients(here, w);  // without ZeRO all of them; else between the groups that share states
    const double scattered = once ? scatter_gradients(here, w) : 0, gathered = once ? gather_weights(here, w, false) : 0;
    const double updated = optimizer_seconds(here, w);
    if (summed + scattered + gathered + updated <= longest) continue;
    longest = summed + scattered + gathered + updated;
    reduce = summed + scattered, copies = summed, gather = gathered, optimizer = updated, most = w;
  }
  double tied = 0;
  if (c.model.tie_word_embeddings && st.pp > 1) tied = transfer(c, Kind::all_reduce, Axis::embedding, c.table * r.gradient_comm_bytes);
  const Timed& b = timed[busiest];
  const double reduce_shown = exposed(reduce, r.dp_overlap, b.backward.compute + b.backward.host);
  const double owners = st.zero >= 1 && st.zero <= 2 && c.shards > 1 ? c.shards * r.owner_broadcast.value : 0;
  const double gather_shown = exposed(gather, r.gather_overlap, b.forward.compute + b.forward.host) + owners;

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
  if (c.cluster.nodes > 1 && r.straggling > 0) {  // everyone waits for the slowest
    const double now = t.compute.value + t.tp_comm.value + t.cp_comm.value + t.ep_comm.value + t.pp_comm.value +
                       t.dp_comm.value + t.host.value + t.optimizer.value + t.bubble.value;
    t.dp_comm.value += now * r.straggling * std::log2(d(c.cluster.nodes));
  }
  t.step = t.compute + t.tp_comm + t.cp_comm + t.ep_comm + t.pp_comm + t.dp_comm + t.host + t.optimizer + t.bubble;

  communication(*of_stage[busiest], e, c.stages[busiest], b.forward, b.backward, hop, hop_bytes);
  const auto dp = [&](Kind kind, double size, double times, double seconds, double shown) {
    if (seconds <= 0) return;
    e.communication.push_back({"dp", std::string(name_of(kind)), rounded(size * times), static_cast<int64_t>(times), {seconds * times}, {shown}});
  };
  const StageWeights w = c.weights(c.stages[busiest]);
  const double each = b.gather + b.gather_again + b.reduce_each, shown_share = each > 0 ? (b.forward.dp + b.backward.dp) / each : 0;
  dp(Kind::all_gather, w.all() * weight_wire_bytes(c), m, b.gather, m * b.gather * shown_share);
  dp(Kind::all_gather, w.all() * weight_wire_bytes(c), m, b.gather_again, m * b.gather_again * shown_share);
  dp(Kind::reduce_scatter, w.all() * gradient_wire_bytes(c), m, b.reduce_each, m * b.reduce_each * shown_share);
  if (reduce > 0) {
    const double held = st.zero >= 1 ? most.dense / c.shards + most.experts / c.expert_shards() : most.all();
    dp(Kind::reduce_scatter, most.all() * gradient_wire_bytes(c), 1, reduce - copies, reduce_shown * (reduce - copies) / reduce);
    dp(Kind::all_reduce, held * gradient_wire_bytes(c), 1, copies, reduce_shown * copies / reduce);
  }
  dp(Kind::all_gather, most.all() * weight_wire_bytes(c), 1, gather, gather_shown);
  if (tied > 0)
    e.communication.push_back({"embedding", "all_reduce", rounded(c.table * r.gradient_comm_bytes), 1, {tied}, {tied}});
}

}  // namespace llmplan
