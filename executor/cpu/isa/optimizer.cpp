#include "executor/cpu/isa/entries.h"

namespace llmplan::cpu::LLMPLAN_ISA {

double sum_squares(const float* x, i64 n) {
  // Eight chains of double, so that the additions overlap; folded in one fixed order.
  typedef double Wide __attribute__((vector_size(8 * kLanes)));
  Wide a{}, b{};
  i64 i = 0;
  for (; i + 2 * kLanes <= n; i += 2 * kLanes) {
    const Wide p = __builtin_convertvector(load(x + i), Wide), q = __builtin_convertvector(load(x + i + kLanes), Wide);
    a += p * p;
    b += q * q;
  }
  a += b;
  double s = 0;
  for (int lane = 0; lane < kLanes; ++lane) s += a[lane];
  for (; i < n; ++i) s += static_cast<double>(x[i]) * x[i];
  return s;
}

// PyTorch's order of operations: decay, then the moments, then m / (sqrt(v)/sqrt(1 − beta2^t) + eps).
void adamw(const AdamWScalars& s, const float* __restrict gradient, float* __restrict weight,
           float* __restrict m, float* __restrict v, i64 n) {
  for (i64 i = 0; i < n; ++i) {
    const float g = gradient[i] * s.gradient_scale;
    const float mi = s.beta1 * m[i] + (1.0f - s.beta1) * g;
    const float vi = s.beta2 * v[i] + (1.0f - s.beta2) * (g * g);
    m[i] = mi;
    v[i] = vi;
    weight[i] = weight[i] * s.keep - s.step * mi / (__builtin_sqrtf(vi) * s.rsqrt_correction + s.eps);
  }
}

}  // namespace llmplan::cpu::LLMPLAN_ISA
