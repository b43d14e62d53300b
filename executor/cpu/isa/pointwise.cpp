// What a transformer does between its matrix products, one pass over memory each.
#include "executor/cpu/isa/entries.h"

namespace llmplan::cpu::LLMPLAN_ISA {

void rms_norm(const RmsNorm& op, const float* x, const float* weight, const float* delta, float* y, float* rstd,
              float* sum_out, i64 begin, i64 end) {
  const i64 h = op.hidden;
  const float inverse = 1.0f / static_cast<float>(h), eps = static_cast<float>(op.eps);
  for (i64 t = begin; t < end; ++t) {
    const float* xt = x + t * h;
    Vec squares{};
    if (op.residual) {
      const float* dt = delta + t * h;
      float* st = sum_out + t * h;
      for_columns(h, [&](i64 i, i64 n, bool part) {
        Vec s = load(xt + i, n, part) + load(dt + i, n, part);
        store(st + i, s, n, part);
        squares += s * s;
      });
      xt = st;
    } else {
      for_columns(h, [&](i64 i, i64 n, bool part) {
        Vec s = load(xt + i, n, part);
        squares += s * s;
      });
    }
    const float r = 1.0f / __builtin_sqrtf(sum(squares) * inverse + eps);
    rstd[t] = r;
    float* yt = y + t * h;
    for_columns(h, [&](i64 i, i64 n, bool part) {
      store(yt + i, load(xt + i, n, part) * r * load(weight + i, n, part), n, part);
    });
  }
}

void rms_norm_grad(const RmsNormGrad& op, const float* x, const float* rstd, const float* weight,
                   const float* dy, const float* dresidual, float* dx, float* partial_row, i64 begin,
                   i64 end) {
  const i64 h = op.hidden;
  for (i64 i = 0; i < h; ++i) partial_row[i] = 0;
  for (i64 t = begin; t < end; ++t) {
    const float *xt = x + t * h, *dyt = dy + t * h, *rt = op.residual ? dresidual + t * h : nullptr;
    float* dxt = dx + t * h;
    const float r = rstd[t];
    Vec dot{};
    for_columns(h, [&](i64 i, i64 n, bool part) {
      const Vec g = load(dyt + i, n, part), v = load(xt + i, n, part);
      dot += load(weight + i, n, part) * g * v;
      store(partial_row + i, load(partial_row + i, n, part) + g * (v * r), n, part);
    });
    const float mean = sum(dot) / static_cast<float>(h) * r * r;
    for_columns(h, [&](i64 i, i64 n, bool part) {
      Vec d = (load(weight + i, n, part) * load(dyt + i, n, part) - load(xt + i, n, part) * mean) * r;
      if (rt) d += load(rt + i, n, part);
      store(dxt + i, d, n, part);
    });
  }
}

void sum_rows(const float* from, i64 rows, i64 columns, float* to, bool accumulate, i64 begin, i64 end) {
  for_columns(end - begin, [&](i64 i, i64 n, bool part) {
    Vec s{};
    for (i64 r = 0; r < rows; ++r) s += load(from + r * columns + begin + i, n, part);
    if (accumulate) s += load(to + begin + i, n, part);
    store(to + begin + i, s, n, part);
  });
}

void rope(const Rope& op, const float* table, const std::int32_t* starts, float* qkv, i64 begin, i64 end) {
  const i64 half = op.head_dim / 2, heads = op.heads + op.kv_heads;
  const i64 width = (op.heads + 2 * op.kv_heads) * op.head_dim;
  const float sign = op.backward ? -1.0f : 1.0f;
  for (i64 t = begin; t < end; ++t) {
    const float* cosine = table + (t % op.seq - (starts ? starts[t] : 0)) * op.head_dim;
    const float* sine = cosine + half;
    for (i64 head = 0; head < heads; ++head) {
      float* low = qkv + t * width + head * op.head_dim;
      float* high = low + half;
      for_columns(half, [&](i64 i, i64 n, bool part) {
        const Vec a = load(low + i, n, part), b = load(high + i, n, part);
        const Vec c = load(cosine + i, n, part), s = load(sine + i, n, part) * sign;
        store(low + i, a * c - b * s, n, part);
        store(high + i, b * c + a * s, n, part);
      });
    }
  }
}

void swiglu(const SwiGlu& op, const float* gate_up, float* out, i64 begin, i64 end) {
  for (i64 t = begin; t < end; ++t) {
    const float *gate = gate_up + t * 2 * op.ffn, *up = gate + op.ffn;
    float* to = out + t * op.ffn;
    for_columns(op.ffn, [&](i64 i, i64 n, bool part) {
      const Vec g = load(gate + i, n, part);
      store(to + i, g / (exp(-g) + 1.0f) * load(up + i, n, part), n, part);
    });
  }
}

void swiglu_grad(const SwiGluGrad& op, const float* gate_up, const float* dout, float* dgate_up, i64 begin,
                 i64 end) {
  for (i64 t = begin; t < end; ++t) {
    const float *gate = gate_up + t * 2 * op.ffn, *up = gate + op.ffn, *d = dout + t * op.ffn;
    float *dgate = dgate_up + t * 2 * op.ffn, *dup = dgate + op.ffn;
    for_columns(op.ffn, [&](i64 i, i64 n, bool part) {
      const Vec g = load(gate + i, n, part), u = load(up + i, n, part), o = load(d + i, n, part);
      const Vec sigmoid = 1.0f / (exp(-g) + 1.0f), silu = g * sigmoid;
      store(dup + i, o * silu, n, part);
      store(dgate + i, o * u * (sigmoid + silu * (1.0f - sigmoid)), n, part);
    });
  }
}

void add(const float* a, const float* b, float* out, i64 n) {
  for_columns(n, [&](i64 i, i64 m, bool part) { store(out + i, load(a + i, m, part) + load(b + i, m, part), m, part); });
}

void embedding(const Embedding& op, i64 first, const std::int32_t* ids, const float* table, float* x, i64 begin,
               i64 end) {
  for (i64 t = begin; t < end; ++t) {
    const i64 row = ids[t] - first;
    const unsigned long bytes = static_cast<unsigned long>(op.hidden) * 4;
    if (row >= 0 && row < op.vocab) __builtin_memcpy(x + t * op.hidden, table + row * op.hidden, bytes);
    else __builtin_memset(x + t * op.hidden, 0, bytes);
  }
}

void embedding_grad(const EmbeddingGrad& op, i64 first, const std::int32_t* ids, const float* dx, float* dtable,
                    i64 begin, i64 end) {
  const i64 columns = end - begin;
  if (!op.accumulate)
    for (i64 v = 0; v < op.vocab; ++v)
      __builtin_memset(dtable + v * op.hidden + begin, 0, static_cast<unsigned long>(columns) * 4);
  for (i64 t = 0; t < op.rows; ++t) {
    const i64 row = ids[t] - first;
    if (row >= 0 && row < op.vocab)
      add(dx + t * op.hidden + begin, dtable + row * op.hidden + begin, dtable + row * op.hidden + begin,
          columns);
  }
}

void exp_of(const float* x, float* y, i64 n) {
  for_columns(n, [&](i64 i, i64 m, bool part) { store(y + i, exp(load(x + i, m, part)), m, part); });
}
void exp2_of(const float* x, float* y, i64 n) {
  for_columns(n, [&](i64 i, i64 m, bool part) { store(y + i, exp2(load(x + i, m, part)), m, part); });
}

}  // namespace llmplan::cpu::LLMPLAN_ISA
