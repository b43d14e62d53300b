#include "costmodel/layer_cost.h"

#include <cmath>

namespace llmplan {
namespace {

using std::int64_t;

double d(int64_t n) { return static_cast<double>(n); }
int64_t whole(double x) { return std::max<int64_t>(1, static_cast<int64_t>(std::llround(std::min(x, 9e15)))); }

// Adds ops to a pass.
struct Pass {
  PassCost& cost;
  const Dims& dims;
  const Pricer& price;

  double gemm(double m, double n, double k, bool accumulate = false) {
    if (m < 1 || n < 1 || k < 1) return 0;
    const Gemm g{whole(m), whole(n), whole(k), false, false, accumulate, dims.dtype, accumulate ? DType::fp32 : DType::bf16};
    const double t = price.seconds(g);
    cost.gemm += t;
    // Casting both operands to fp8; a norm or activation that is fused with its cast would save one.
    if (size_of(dims.dtype) == 1) cost.pointwise += price.pointwise(dims.cast_bytes * (m * k + (accumulate ? n * k : 0)));
    return t;
  }
  void bytes(double n) { cost.pointwise += price.pointwise(n); }
  void collective(Collective::Kind kind, Axis axis, double size) {
    if (size < 1) return;
    price(cost.comm, Collective{kind, axis, {whole(size)}, DType::bf16});
    cost.collectives += 1;
  }
};

using Kind = Collective::Kind;

// y = x·Wᵀ forward; both gradients backward. `again` is a recomputed forward.
struct Linear { double rows, out, in; };

void forward(Pass& p, const Linear& l) { p.gemm(l.rows, l.out, l.in); }
void backward(Pass& p, const Linear& l, bool accumulate) {
  p.gemm(l.rows, l.in, l.out);
  p.cost.weight_gradients += p.gemm(l.out, l.in, l.rows, accumulate);
}

template <class F>
void attention_linears(const ModelConfig& m, const Dims& x, F each) {
  if (x.mla) {
    const double ql = d(m.q_lora_rank), kvl = d(m.kv_lora_rank);
    const double nope = d(m.qk_nope_head_dim), rope = d(m.qk_rope_head_dim);
    if (ql > 0) {
      each(Linear{x.rows, ql, x.hidden});
      each(Linear{x.rows, x.heads * (nope + rope), ql});
    } else {
      each(Linear{x.rows, x.heads * (nope + rope), x.hidden});
    }
    each(Linear{x.rows, kvl + rope, x.hidden});
    each(Linear{x.rows, x.heads * (nope + x.v_dim), kvl});
  } else {
    each(Linear{x.rows, x.q + x.kv, x.hidden});
  }
  each(Linear{x.rows, x.hidden, x.attn});
}

template <class F>
void mlp_linears(const Dims& x, bool moe, F each) {
  const double up = x.gated ? 2 : 1;
  if (!moe) {
    each(Linear{x.rows, up * x.ffn, x.hidden});
    each(Linear{x.rows, x.hidden, x.ffn});
    return;
  }
  each(Linear{x.rows, x.experts, x.hidden});
  if (x.shared_ffn > 0) {
    each(Linear{x.rows, up * x.shared_ffn, x.hidden});
    each(Linear{x.rows, x.hidden, x.shared_ffn});
  }
}
// Grouped GEMMs: each local expert works on its share of the rows.
template <class F>
void expert_linears(const Dims& x, F each) {
  const double up = x.gated ? 2 : 1, rows = x.expert_rows / x.local_experts;
  each(Linear{rows, up * x.expert_ffn, x.hidden});
  each(Linear{rows, x.hidden, x.expert_ffn});
}

// Scores of this rank's queries; ring attention spreads a causal mask evenly over its ranks.
double scores(const Dims& x) { return x.micro_batch * x.heads * x.seq * x.full_seq; }

void attention_core(Pass& p, const Dims& x, const Runtime& r, const Pricer& price, bool gradient) {
  if (!x.unfused) {
    // One op for the whole group's sequence; a cp rank does 1/cp of it.
    const auto batch = whole(x.micro_batch), seq = whole(x.full_seq), heads = whole(x.heads);
    const auto kv = std::min(heads, whole(x.kv_heads)), dim = whole((x.qk_dim + x.v_dim) / 2);
    const double t = gradient ? price.seconds(AttentionGrad{batch, seq, heads, kv, dim, true, DType::bf16})
                              : price.seconds(Attention{batch, seq, heads, kv, dim, true, DType::bf16});
    p.cost.attention += t / x.cp / (r.attention_rate * (r.fa2 ? price.cluster.device.fa2_rate : 1));
    return;
  }
  const double queries = x.micro_batch * x.heads * x.seq, s = x.full_seq;
  const double before = p.cost.gemm;
  p.gemm(queries, s, x.qk_dim);
  p.gemm(queries, x.v_dim, s);
  if (gradient) {
    p.gemm(queries, s, x.v_dim);
    p.gemm(queries, x.qk_dim, s);
  }
  p.cost.attention += p.cost.gemm - before;
  p.cost.gemm = before;
  p.cost.attention += price.pointwise(scores(x) * (gradient ? r.score_bytes_backward : r.score_bytes_forward));
}

// Norms with their residual sums, rotary embedding, and the MLP's activation; each tensor once per kernel
// when fused. `passes`: bytes per element forward, or backward.
void pointwise_work(Pass& p, const Dims& x, const Runtime& r, bool moe, bool gradient) {
  const double e = x.element;
  const double norms = x.split_rows * x.hidden * (gradient ? 10 : 8);
  const double rope = 2 * x.rows * (x.q + x.kv / 2);
  const double mlp_columns = x.gated ? (gradient ? 5 : 3) : (gradient ? 3 : 2);
  double mlp = mlp_columns * x.rows * x.ffn;
  if (moe) {
    mlp = mlp_columns * (x.expert_rows * x.expert_ffn + x.rows * x.shared_ffn);
    mlp += 4 * x.expert_rows * x.hidden;  // permute in and out
    p.bytes(x.rows * x.experts * 4 * 6);  // router probabilities in fp32
  }
  p.bytes(e * r.pointwise * norms);
  p.bytes(e * r.pointwise * (rope + mlp));
}

void communicate(Pass& p, const Dims& x, const Runtime& r, bool moe, bool gradient) {
  const double e = x.element, stream = x.rows * x.hidden * e;
  if (x.tp > 1) {
    // Two column- and row-parallel pairs per layer. Under sp the gathered input is not kept, so backward
    // gathers it again (Korthikanti et al. 2022, §4.2.2).
    if (x.sp) {
      const auto pair = [&](double size) {
        p.collective(Kind::all_gather, Axis::tp, size);
        p.collective(Kind::reduce_scatter, Axis::tp, size);
        if (gradient) p.collective(Kind::all_gather, Axis::tp, size);
      };
      pair(stream);
      // Experts that tp splits gather what was sent to them; those it does not split work on their own tokens.
      if (!moe || x.etp > 1) pair(moe && x.ep > 1 ? x.expert_rows * x.hidden * e : stream);
    } else {
      p.collective(Kind::all_reduce, Axis::tp, stream);
      p.collective(Kind::all_reduce, Axis::tp, stream);
    }
  }
  if (x.cp > 1) {
    const double kv = x.rows * x.kv * e;
    switch (r.cp) {
      case ContextParallel::ring:        // k and v travel round once; backward, so do their gradients
      case ContextParallel::all_gather:
        p.collective(Kind::all_gather, Axis::cp, kv * x.cp);
        if (gradient) p.collective(Kind::reduce_scatter, Axis::cp, kv * x.cp);
        break;
      case ContextParallel::all_to_all:
        p.collective(Kind::all_to_all, Axis::cp, x.rows * (x.q + x.kv) * e);
        p.collective(Kind::all_to_all, Axis::cp, x.rows * x.attn * e);
        break;
    }
  }
  if (moe && x.ep > 1) {
    const double routed = x.split_rows * x.top_k * x.hidden * e;
    p.collective(Kind::all_to_all, Axis::ep, routed);
    p.collective(Kind::all_to_all, Axis::ep, routed);
  }
}

void forward_pass(Pass p, const ModelConfig& m, const Dims& x, const Runtime& r, const Pricer& price, bool moe) {
  const auto each = [&](const Linear& l) { forward(p, l); };
  attention_linears(m, x, each);
  attention_core(p, x, r, price, false);
  mlp_linears(x, moe, each);
  if (moe) {
    PassCost one;
    Pass q{one, x, price};
    expert_linears(x, [&](const Linear& l) { forward(q, l); });
    p.cost.gemm += one.gemm * x.local_experts;
  }
  pointwise_work(p, x, r, moe, false);
  communicate(p, x, r, moe, false);
  p.cost.kernels = r.kernels_forward + (moe ? 12 : 0);
}

}  // namespace

Dims dims_of(const ModelConfig& m, const Workload& w, const Strategy& s, const Runtime& r) {
  Dims x{};
  x.tp = d(s.tp), x.cp = d(s.cp), x.ep = d(s.ep), x.dp = d(s.dp), x.etp = d(s.expert_tp());
  x.sp = s.sp && s.tp > 1;
  x.micro_batch = d(s.micro_batch);
  x.full_seq = d(sequence_length(m, w));
  x.seq = x.full_seq / x.cp;
  x.rows = x.micro_batch * x.seq;
  x.split_rows = x.sp ? x.rows / x.tp : x.rows;
  x.hidden = d(m.hidden_size);
  x.heads = d(m.num_attention_heads) / x.tp;
  x.kv_heads = std::max(1.0, d(m.num_key_value_heads) / x.tp);
  x.mla = m.kv_lora_rank > 0;
  x.qk_dim = x.mla ? d(m.qk_nope_head_dim + m.qk_rope_head_dim) : d(m.head_dim);
  x.v_dim = x.mla ? d(m.v_head_dim) : d(m.head_dim);
  x.q = x.heads * x.qk_dim;
  x.kv = x.mla ? x.heads * (x.qk_dim + x.v_dim) : 2 * x.kv_heads * x.v_dim;
  x.attn = x.heads * x.v_dim;
  x.ffn = d(m.intermediate_size) / x.tp;
  const double multiple = d(r.vocab_multiple) * x.tp;
  x.vocab = std::ceil(d(m.vocab_size) / multiple) * multiple / x.tp;
  x.gated = is_gated(m.mlp);
  x.unfused = s.attention == AttentionKernel::unfused;
  const bool fp8 = w.precision == DType::fp8_e4m3 || w.precision == DType::fp8_e5m2;
  x.element = fp8 ? 2 : d(size_of(w.precision));  // fp8 is for matrix products; the rest is bf16
  x.dtype = w.precision;
  x.cast_bytes = r.fp8_cast_bytes;
  if (m.num_experts > 0) {
    x.experts = d(m.num_experts);
    x.top_k = d(m.num_experts_per_tok);
    // Under ep a rank's experts see the tokens of ep ranks; evenly routed, rows · top_k of them, of which each etp
    // group of a tp group takes its part.
    x.expert_rows = x.rows * x.top_k * x.etp / x.tp;
    x.local_experts = x.experts / x.ep;
    x.expert_ffn = d(m.moe_intermediate_size) / x.etp;
    x.shared_ffn = d(m.shared_expert_intermediate_size) / x.tp;
  }
  return x;
}

LayerPasses price_layer(const ModelConfig& m, const Dims& x, const Strategy& s, const Runtime& r,
                        const Pricer& price, bool moe) {
  LayerPasses l;
  forward_pass(Pass{l.forward, x, price}, m, x, r, price, moe);

  Pass p{l.backward, x, price};
  const bool accumulate = r.gradient_bytes >= 4;
  const auto each = [&](const Linear& linear) { backward(p, linear, accumulate); };
  attention_linears(m, x, each);
  attention_core(p, x, r, price, true);
  mlp_linears(x, moe, each);
  if (moe) {
    PassCost one;
    Pass q{one, x, price};
    expert_linears(x, [&](const Linear& linear) { backward(q, linear, accumulate); });
    p.cost.gemm += one.gemm * x.local_experts;
    p.cost.weight_gradients += one.weight_gradients * x.local_experts;
  }
  pointwise_work(p, x, r, moe, true);
  communicate(p, x, r, moe, true);
  p.cost.kernels = r.kernels_backward + (moe ? 24 : 0);

  if (s.recompute == Recompute::full) {
    l.recompute = l.forward;
  } else if (s.recompute == Recompute::selective) {
    if (r.selective == Selective::attention) {
      if (x.unfused) {
        Pass again{l.recompute, x, price};
        attention_core(again, x, r, price, false);
        l.recompute.kernels = 4;
      }  // a flash kernel keeps no scores: nothing to recompute
    } else {
      l.recompute.gemm = l.forward.gemm / 2;
      l.recompute.pointwise = l.forward.pointwise;
      l.recompute.kernels = l.forward.kernels / 2;
    }
  }
  return l;
}

// Korthikanti et al. 2022, §4.1, taken apart by tensor and widened to grouped queries, gated MLPs and flash
// attention; for GPT with dropout and unfused attention it is s·b·h·(34 + 5·a·s/h).
double kept_bytes(const ModelConfig& m, const Dims& x, const Runtime& r, Recompute recompute, bool moe) {
  const double e = x.element;
  const double stream = x.split_rows * x.hidden;  // what sp divides
  if (recompute == Recompute::full) return stream * e;
  const double mask = r.dropout ? 1 : 0;
  double attention = 0;
  if (x.mla) {
    attention = e * x.rows * (d(m.q_lora_rank) * 2 + d(m.kv_lora_rank) * 2 + d(m.qk_rope_head_dim));
  }
  // Linears keep their input, norms theirs; q, k, v for the scores' gradient.
  double norms = 2 * stream * e * (1 + r.norm_copies);
  if (r.gathered_inputs) norms += 2 * (x.rows * x.hidden - stream) * e;  // what tp has gathered for the linears
  attention += e * x.rows * (x.q + x.kv + x.attn);
  if (!x.unfused) {
    attention += x.rows * x.heads * 4;  // softmax statistics
  } else if (recompute != Recompute::selective) {
    // softmax output, and with dropout its mask and output
    attention += scores(x) * (std::max(e, r.scores_kept) + (r.dropout ? 1 + e : 0));
  }
  const double columns = (x.gated ? 2 : 1) + r.activation_copies;
  double mlp = e * x.rows * x.ffn * columns;
  if (moe) {
    mlp = e * columns * (x.expert_rows * x.expert_ffn + x.rows * x.shared_ffn);
    mlp += e * x.expert_rows * x.hidden;   // permuted input of the experts
    mlp += x.rows * x.experts * 4 * 2;     // router logits and probabilities
  }
  double kept = norms + attention + mlp + 2 * stream * mask + r.pointwise_saved * stream;
  if (recompute == Recompute::selective && r.selective == Selective::matmuls) {
    // Of q, k, v, o, gate, up and down every second product is kept (down's before tp adds it up), and the
    // attention kernel's output; beside them the layer's input.
    kept = e * (stream + x.rows * (x.hidden + x.q + x.kv / 2 + x.attn) +
                (moe ? x.expert_rows * x.expert_ffn + x.rows * x.shared_ffn : x.rows * x.ffn)) +
           (x.unfused ? 0 : x.rows * x.heads * 4);
  }
  return kept;
}

LayerWeights layer_weights(const ModelConfig& m, const Strategy& s, bool moe) {
  const double h = d(m.hidden_size), t = d(s.tp), a = d(m.num_attention_heads) / t;
  LayerWeights w;
  if (m.kv_lora_rank > 0) {
    const double nope = d(m.qk_nope_head_dim), rope = d(m.qk_rope_head_dim), v = d(m.v_head_dim);
    const double ql = d(m.q_lora_rank), kvl = d(m.kv_lora_rank);
    w.dense += (ql > 0 ? h * ql + ql + ql * a * (nope + rope) : h * a * (nope + rope)) + h * (kvl + rope) + kvl +
               kvl * a * (nope + v) + a * v * h;
  } else {
    const double kv = std::max(1.0, d(m.num_key_value_heads) / t) * d(m.head_dim), q = a * d(m.head_dim);
    w.dense += h * (2 * q + 2 * kv) + (m.qkv_bias ? q + 2 * kv : 0) + (m.attention_out_bias ? h : 0) +
               (m.qk_norm ? 2 * d(m.head_dim) : 0);
  }
  w.dense += d(m.norms_per_layer) * h * (m.norm == Norm::layer && m.norm_bias ? 2 : 1);
  const double matrices = is_gated(m.mlp) ? 3 : 2;
  const auto mlp = [&](double ffn) {
    return matrices * h * ffn / t + (m.mlp_bias ? (matrices - 1) * ffn / t + h : 0);
  };
  if (!moe) {
    w.dense += mlp(d(m.intermediate_size));
    return w;
  }
  w.dense += h * d(m.num_experts) + (m.router_bias ? d(m.num_experts) : 0) + (m.shared_expert_gate ? h : 0);
  if (m.shared_expert_intermediate_size > 0) w.dense += mlp(d(m.shared_expert_intermediate_size));
  w.experts = d(m.num_experts) / d(s.ep) * matrices * h * d(m.moe_intermediate_size) / d(s.expert_tp());
  return w;
}

double table_weights(const ModelConfig& m, const Strategy& s, const Runtime& r) {
  const double multiple = d(r.vocab_multiple) * d(s.tp);
  return std::ceil(d(m.vocab_size) / multiple) * multiple / d(s.tp) * d(m.hidden_size);
}

}  // namespace llmplan
