// Softmax cross entropy over a vocabulary that tp ranks may share. A row's logits stay in the L2 cache
// between the passes over it.
#include "executor/cpu/isa/entries.h"

namespace llmplan::cpu::LLMPLAN_ISA {
namespace {

constexpr i64 kChunk = 32 * kLanes;  // of columns: summed in fp32, chunks in fp64

double sum_exp(const float* x, i64 n, float shift) {
  double total = 0;
  for (i64 begin = 0; begin < n; begin += kChunk) {
    Vec s{};
    for_columns(min(kChunk, n - begin), [&](i64 i, i64 m, bool part) {
      s += exp(load(x + begin + i, m, part, -kInf) - shift);
    });
    total += sum(s);
  }
  return total;
}

}  // namespace

void cross_entropy_stats(const CrossEntropyStats& op, i64 first, i64 valid, const float* logits,
                         const std::int32_t* targets, float* stats, i64 begin, i64 end) {
  for (i64 t = begin; t < end; ++t) {
    const float* row = logits + t * op.vocab;
    Vec m = broadcast(-kInf);
    for_columns(valid, [&](i64 i, i64 n, bool part) { m = max(load(row + i, n, part, -kInf), m); });
    const float biggest = max_lane(m);
    const i64 target = targets[t] - first;
    stats[3 * t] = biggest;
    stats[3 * t + 1] = valid > 0 ? static_cast<float>(sum_exp(row, valid, biggest)) : 0.0f;
    stats[3 * t + 2] = targets[t] >= 0 && target >= 0 && target < valid ? row[target] : 0.0f;
  }
}

void cross_entropy_grad(const CrossEntropyGrad& op, double loss_scale, i64 first, i64 valid, const std::int32_t* targets,
                        const float* stats, float* logits, double* partial, i64 begin, i64 end) {
  for (i64 t = begin; t < end; ++t) {
    float biggest = -kInf;
    for (i64 s = 0; s < op.shards; ++s) {
      const float m = stats[3 * (s * op.rows + t)];
      biggest = m > biggest ? m : biggest;
    }
    double total = 0, logit = 0;
    for (i64 s = 0; s < op.shards; ++s) {
      const float* of = stats + 3 * (s * op.rows + t);
      if (of[1] != 0) total += __builtin_exp(static_cast<double>(of[0]) - biggest) * of[1];
      logit += of[2];
    }
    const bool counts = targets[t] >= 0;
    if (counts) {
      partial[0] += __builtin_log(total) + biggest - logit;
      partial[1] += 1;
    }
    if (!op.gradient) continue;
    float* row = logits + t * op.vocab;
    if (!counts) {
      __builtin_memset(row, 0, static_cast<unsigned long>(op.vocab) * 4);
      continue;
    }
    const float scale = static_cast<float>(loss_scale / (total * static_cast<double>(op.divisor)));
    for_columns(valid, [&](i64 i, i64 n, bool part) {
      store(row + i, exp(load(row + i, n, part) - biggest) * scale, n, part);
    });
    for (i64 i = valid; i < op.vocab; ++i) row[i] = 0;
    const i64 target = targets[t] - first;
    if (target >= 0 && target < valid) row[target] -= static_cast<float>(loss_scale / static_cast<double>(op.divisor));
  }
}

}  // namespace llmplan::cpu::LLMPLAN_ISA
