#include "tests/executor/made_up_attention.h"

#include <algorithm>
#include <cmath>
#include <ctime>
#include <stdexcept>
#include <vector>

#include "executor/cuda/attention_reference.h"
#include "executor/cuda/scalar.h"

namespace llmplan::cuda::test {
namespace {

using std::int64_t;

float value(DType t, const std::byte* at, int64_t i) {
  return t == DType::fp16 ? to_float(reinterpret_cast<const Float16*>(at)[i]) : to_float(reinterpret_cast<const BFloat16*>(at)[i]);
}
void set(DType t, std::byte* at, int64_t i, float v) {
  if (t == DType::fp16) reinterpret_cast<Float16*>(at)[i] = from_float<Float16>(v);
  else reinterpret_cast<BFloat16*>(at)[i] = from_float<BFloat16>(v);
}

template <class Op>
AttentionShape shape_of(const Op& a) { return {a.batch, a.seq, a.heads, a.kv_heads, a.head_dim}; }

// Scores of one query, from the first key to the last that it sees; `seen` of them.
template <class Op>
std::vector<double> scores(const Op& op, const std::byte* qkv, int64_t b, int64_t head, int64_t query, Fault fault) {
  const AttentionShape s = shape_of(op);
  const double scale = fault == Fault::scale ? 1.0 / static_cast<double>(s.head_dim) : 1.0 / std::sqrt(static_cast<double>(s.head_dim));
  std::vector<double> x(static_cast<std::size_t>(std::min(s.seq, query + 1 + (fault == Fault::mask))));
  for (int64_t key = 0; key < static_cast<int64_t>(x.size()); ++key) {
    double sum = 0;
    for (int64_t d = 0; d < s.head_dim; ++d)
      sum += value(op.dtype, qkv, s.q(b, query, head) + d) * value(op.dtype, qkv, s.k(b, key, head / s.group()) + d);
    x[static_cast<std::size_t>(key)] = sum * scale;
  }
  return x;
}

void forward(const Attention& op, const std::byte* qkv, std::byte* out, float* lse, Fault fault) {
  const AttentionShape s = shape_of(op);
  const int64_t end = fault == Fault::unwritten ? s.seq - 1 : s.seq;
  for (int64_t b = 0; b < s.batch; ++b)
    for (int64_t head = 0; head < s.heads; ++head)
      for (int64_t query = 0; query < end; ++query) {
        const std::vector<double> x = scores(op, qkv, b, head, query, fault);
        const double max = *std::max_element(x.begin(), x.end());
        double sum = 0;
        for (double v : x) sum += std::exp(v - max);
        lse[s.lse(b, head) + query] = static_cast<float>(max + std::log(sum));
        for (int64_t d = 0; d < s.head_dim; ++d) {
          double o = 0;
          for (std::size_t key = 0; key < x.size(); ++key)
            o += std::exp(x[key] - max) / sum * value(op.dtype, qkv, s.v(b, static_cast<int64_t>(key), head / s.group()) + d);
          set(op.dtype, out, s.out(b, query, head) + d, static_cast<float>(o));
        }
      }
}

void backward(const AttentionGrad& op, const std::byte* qkv, const std::byte* out, const float* lse, const std::byte* dout, std::byte* dqkv,
              float* delta, Fault fault) {
  const AttentionShape s = shape_of(op);
  const double scale = 1.0 / std::sqrt(static_cast<double>(s.head_dim));
  std::vector<double> sum(static_cast<std::size_t>(s.batch * s.seq * s.row_elements()));
  for (int64_t b = 0; b < s.batch; ++b)
    for (int64_t head = 0; head < s.heads; ++head)
      for (int64_t query = 0; query < s.seq; ++query) {
        const std::vector<double> x = scores(op, qkv, b, head, query, fault);
        const auto g = [&](int64_t d) { return static_cast<double>(value(op.dtype, dout, s.out(b, query, head) + d)); };
        double dot = 0;
        for (int64_t d = 0; d < s.head_dim; ++d) dot += g(d) * value(op.dtype, out, s.out(b, query, head) + d);
        delta[s.lse(b, head) + query] = static_cast<float>(dot);
        for (int64_t key = 0; key < static_cast<int64_t>(x.size()); ++key) {
          const double p = std::exp(x[static_cast<std::size_t>(key)] - lse[s.lse(b, head) + query]);
          const int64_t q = s.q(b, query, head), k = s.k(b, key, head / s.group()), v = s.v(b, key, head / s.group());
          double dp = 0;
          for (int64_t d = 0; d < s.head_dim; ++d) dp += g(d) * value(op.dtype, qkv, v + d);
          const double ds = p * (dp - dot) * scale;
          for (int64_t d = 0; d < s.head_dim; ++d) {
            sum[static_cast<std::size_t>(v + d)] += p * g(d);
            sum[static_cast<std::size_t>(k + d)] += ds * value(op.dtype, qkv, q + d);
            sum[static_cast<std::size_t>(q + d)] += ds * value(op.dtype, qkv, k + d);
          }
        }
      }
  const int64_t end = fault == Fault::unwritten ? s.batch * s.seq - 1 : s.batch * s.seq;
  for (int64_t i = 0; i < end * s.row_elements(); ++i) set(op.dtype, dqkv, i, static_cast<float>(sum[static_cast<std::size_t>(i)]));
}

// Mistakes in a result of 16-bit numbers.
void spoil(DType t, std::byte* result, int64_t elements, int64_t head_dim, Fault fault, int run) {
  const int64_t middle = elements / 2 / head_dim * head_dim;
  if (fault == Fault::one_vector)
    for (int64_t d = 0; d < head_dim; ++d) set(t, result, middle + d, -value(t, result, middle + d) + 0.25f);
  if (fault == Fault::nan) set(t, result, middle, NAN);
  if (fault == Fault::other_bits) result[2 * middle] ^= static_cast<std::byte>(run % 2);
  if (fault == Fault::slow)  // of computing, which is the emulated card's time
    for (const std::clock_t end = std::clock() + CLOCKS_PER_SEC * 15 / 100; std::clock() < end;) {}
}

class Library final : public AttentionLibrary {
 public:
  Library(const MadeUpAttention& what, Enqueue enqueue) : what_(what), enqueue_(std::move(enqueue)) {}
  std::string name() const override { return "a made-up library"; }
  std::string identity() const override { return what_.identity; }
  std::string prepare(const Op&, bool) override {
    ++what_.prepared;
    return what_.refusal;
  }
  void run(const Op& op, std::span<const std::byte* const> reads, std::span<std::byte* const> writes, CUstream_st* stream) override {
    if (what_.fault == Fault::throws) throw std::runtime_error("the made-up library fails");
    const int run = what_.runs++;
    const Fault fault = what_.fault;
    if (auto* a = std::get_if<Attention>(&op)) {
      enqueue_(stream, [a = *a, fault, run, qkv = reads[0], out = writes[0], lse = writes[1]] {
        forward(a, qkv, out, reinterpret_cast<float*>(lse), fault);
        spoil(a.dtype, out, a.batch * a.seq * a.heads * a.head_dim, a.head_dim, fault, run);
      });
    } else {
      const auto& g = std::get<AttentionGrad>(op);
      enqueue_(stream, [g, fault, run, qkv = reads[0], out = reads[1], lse = reads[2], dout = reads[3], dqkv = writes[0], delta = writes[1],
                        workspace = writes[2]] {
        std::fill_n(workspace, g.workspace, std::byte{0x5a});  // it may be used as it likes
        backward(g, qkv, out, reinterpret_cast<const float*>(lse), dout, dqkv, reinterpret_cast<float*>(delta), fault);
        spoil(g.dtype, dqkv, g.batch * g.seq * (g.heads + 2 * g.kv_heads) * g.head_dim, g.head_dim, fault, run);
      });
    }
  }

 private:
  const MadeUpAttention& what_;
  Enqueue enqueue_;
};

const MadeUpAttention* offered = nullptr;

}  // namespace

std::unique_ptr<AttentionLibrary> make_library(const MadeUpAttention& what, Enqueue enqueue) {
  return std::make_unique<Library>(what, std::move(enqueue));
}

Offer::Offer(const MadeUpAttention& what) { offered = &what; }
Offer::~Offer() { offered = nullptr; }
const MadeUpAttention* Offer::current() { return offered; }

}  // namespace llmplan::cuda::test
