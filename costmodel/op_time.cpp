// How long one op takes alone on one device.
//
// The model, in this order:
//  1. An op that was measured with the same number of ranks and threads takes what was measured.
//  2. Where ops of its kind were measured, its rate (FLOP/s for matrix work, bytes/s for the rest) is the
//     mean of the logarithms of its neighbours' rates, weighted by 1/distance². Distance is Euclidean in
//     log2 of the op's dimensions, plus a penalty for another layout (transposes, accumulation, residual).
//     Only the eight nearest count, a cell's corners in three dimensions, so that far shapes do not pull. The
//     rate is interpolated and not the time, because it varies by tens of percent where time varies by
//     orders of magnitude.
//  3. Otherwise the roofline: max(FLOPs / (peak × efficiency), bytes / (bandwidth × efficiency)) + launch.
#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <optional>

#include "costmodel/estimate.h"

namespace llmplan {
namespace {

template <class... F>
struct Overload : F... {
  using F::operator()...;
};
template <class... F>
Overload(F...) -> Overload<F...>;

using std::int64_t;

// Where an op stands among others of its kind. Ops of different `variant` are different code paths.
struct Shape {
  std::array<float, 4> log_dims{};  // log2
  int variant = 0;
};

float lg(int64_t x) { return std::log2(static_cast<float>(std::max<int64_t>(x, 1))); }

Shape shape_of(const Op& op) {
  return std::visit(
      Overload{
          [](const Load& l) -> Shape { return {{lg(l.rows)}, 0}; },
          [](const Gemm& g) -> Shape {
            return {{lg(g.m), lg(g.n), lg(g.k)},
                    (g.a_transposed ? 1 : 0) + (g.b_transposed ? 2 : 0) + (g.accumulate ? 4 : 0)};
          },
          [](const Quantize& q) -> Shape {
            return {{lg(q.rows), lg(q.columns)}, (q.straight ? 1 : 0) + (q.transposed ? 2 : 0)};
          },
          [](const Embedding& e) -> Shape { return {{lg(e.rows), lg(e.hidden), lg(e.vocab) / 4}, 0}; },
          [](const EmbeddingGrad& e) -> Shape {
            return {{lg(e.rows), lg(e.hidden), lg(e.vocab)}, e.accumulate ? 4 : 0};
          },
          [](const RmsNorm& r) -> Shape {
            return {{lg(r.rows), lg(r.hidden)}, (r.residual ? 1 : 0) + (r.quantize ? 4 : 0)};
          },
          [](const RmsNormGrad& r) -> Shape {
            return {{lg(r.rows), lg(r.hidden)}, (r.residual ? 1 : 0) + (r.accumulate ? 4 : 0)};
          },
          [](const Rope& r) -> Shape {
            return {{lg(r.rows), lg((r.heads + r.kv_heads) * r.head_dim)}, r.backward ? 1 : 0};
          },
          [](const Attention& a) -> Shape {
            return {{lg(a.seq), lg(a.batch * a.heads), lg(a.head_dim)}, a.causal ? 1 : 0};
          },
          [](const AttentionGrad& a) -> Shape {
            return {{lg(a.seq), lg(a.batch * a.heads), lg(a.head_dim)}, a.causal ? 1 : 0};
          },
          [](const SwiGlu& s) -> Shape { return {{lg(s.rows), lg(s.ffn)}, s.quantize ? 4 : 0}; },
          [](const SwiGluGrad& s) -> Shape { return {{lg(s.rows), lg(s.ffn)}, s.quantize ? 4 : 0}; },
          [](const Add& a) -> Shape { return {{lg(a.elements)}, 0}; },
          [](const CrossEntropyStats& c) -> Shape { return {{lg(c.rows), lg(c.vocab)}, 0}; },
          [](const CrossEntropyGrad& c) -> Shape { return {{lg(c.rows), lg(c.vocab)}, c.gradient ? 1 : 0}; },
          [](const GradStats& g) -> Shape { return {{lg(g.elements)}, 0}; },
          [](const LossScale&) -> Shape { return {}; },
          [](const AdamW& a) -> Shape { return {{lg(a.elements)}, static_cast<int>(a.weights) + (a.stochastic ? 16 : 0)}; },
          [](const Collective& c) -> Shape { return {{lg(c.size.value)}, static_cast<int>(c.kind)}; },
          [](const Send& s) -> Shape { return {{lg(s.size.value)}, 0}; },
          [](const Recv& r) -> Shape { return {{lg(r.size.value)}, 0}; },
      },
      op);
}

// What the op's time is proportional to, in FLOPs or bytes.
double work_of(const Op& op) {
  return std::max(class_of(op) == OpClass::matrix ? flops(op).value : static_cast<double>(bytes_moved(op).value), 1.0);
}

// Squared distance of two ops of one kind; a transpose flag costs half a doubling, another element
// type or number of threads costs more than any shape that a model has.
float distance(const Shape& a, const Shape& b) {
  float sum = 0;
  for (std::size_t i = 0; i < a.log_dims.size(); ++i) {
    const float difference = a.log_dims[i] - b.log_dims[i];
    sum += difference * difference;
  }
  if (a.variant != b.variant) sum += 1.0F;
  return sum;
}

std::optional<Seconds> from_measurements(const Op& op, const Device& device, int ranks, int threads) {
  struct Neighbour { float distance = std::numeric_limits<float>::infinity(); double log_rate = 0; };
  std::array<Neighbour, 8> nearest;
  const Shape shape = shape_of(op);
  bool any = false;
  for (const MeasuredOp& m : device.measured) {
    if (m.op.index() != op.index() || !(m.time.value > 0)) continue;
    const bool same_load = m.ranks == ranks && m.threads == threads;
    if (same_load && m.op == op) return m.time;
    Neighbour n;
    n.distance = distance(shape, shape_of(m.op));
    double rate = work_of(m.op) / m.time.value;
    if (!same_load) {
      // Perfect scaling over threads, cores shared when there are more threads than cores: only used
      // where nothing nearer was measured.
      const auto share = [&](int r, int t) {
        return t * std::min(1.0, static_cast<double>(std::max(device.cores, 1)) / (static_cast<double>(r) * t));
      };
      rate *= share(ranks, threads) / share(m.ranks, m.threads);
      n.distance += 16;
    }
    n.log_rate = std::log(rate);
    any = true;
    for (Neighbour& slot : nearest)
      if (n.distance < slot.distance) std::swap(n, slot);
  }
  if (!any) return {};
  double weights = 0, sum = 0;
  for (const Neighbour& n : nearest) {
    if (n.distance == std::numeric_limits<float>::infinity()) break;
    const double weight = 1.0 / (static_cast<double>(n.distance) + 1e-6);
    weights += weight;
    sum += weight * n.log_rate;
  }
  return Seconds{work_of(op) / std::exp(sum / weights)};
}

double rate_or_infinite(double rate) { return rate > 0 ? rate : std::numeric_limits<double>::infinity(); }

FlopsPerSecond matrix_peak(const Device& device, DType type) {
  if (const auto found = device.peak.find(type); found != device.peak.end()) return found->second;
  return device.vector_peak;  // a type without matrix units
}

// A GEMM on a GPU is cut into tiles, one per processor at a time, and the last wave of tiles is seldom full. A
// smaller tile fills it better but reuses its operands less; where even small tiles are too few, the
// library splits k (NVIDIA, "Matrix Multiplication Background User's Guide", tile and wave quantization). Returns
// the factor by which this shape takes longer than its FLOPs at full rate.
double quantization(const Gemm& g, int sms) {
  struct Tile { int m, n; double rate; };
  constexpr Tile kTiles[] = {{256, 128, 1.0}, {128, 256, 1.0}, {128, 128, 0.95}, {128, 64, 0.8}, {64, 64, 0.65}};
  const double work = static_cast<double>(g.m) * static_cast<double>(g.n);
  double best = std::numeric_limits<double>::infinity();
  for (const Tile& t : kTiles) {
    const int64_t tiles = ((g.m + t.m - 1) / t.m) * ((g.n + t.n - 1) / t.n);
    // Processors at work: with too few tiles, pieces of at least 1024 of k each.
    const double pieces = std::max(1.0, static_cast<double>(g.k) / 1024);
    const double slots = tiles >= sms ? static_cast<double>((tiles + sms - 1) / sms * sms)
                                      : static_cast<double>(tiles) * sms / std::min<double>(sms, static_cast<double>(tiles) * pieces);
    const double done = slots * t.m * t.n;
    best = std::min(best, done / (work * t.rate));
  }
  return best;
}

Seconds roofline(const Op& op, const Device& device) {
  const double bytes = static_cast<double>(bytes_moved(op).value);
  const double memory =
      bytes / rate_or_infinite(device.memory_bandwidth.value * device.memory_efficiency.at(bytes));
  const double compute = std::visit(
      Overload{
          [&](const Gemm& g) {
            const double work = flops(g).value;
            const double longer = device.sms > 0 ? quantization(g, device.sms) : 1;
            return longer * work / rate_or_infinite(matrix_peak(device, g.in).value * device.gemm_efficiency.at(work));
          },
          [&](const Attention& a) {
            return flops(a).value / rate_or_infinite(matrix_peak(device, a.dtype).value *
                                                     device.attention_efficiency.at(static_cast<double>(a.seq)));
          },
          [&](const AttentionGrad& a) {
            return flops(a).value / rate_or_infinite(matrix_peak(device, a.dtype).value *
                                                     device.attention_efficiency.at(static_cast<double>(a.seq)));
          },
          [&](const auto& other) { return flops(other).value / rate_or_infinite(device.vector_peak.value); },
      },
      op);
  return Seconds{std::max(compute, memory)} + device.launch;
}

}  // namespace

Seconds op_time(const Op& op, const Device& device, int ranks, int threads) {
  if (!device.measured.empty())
    if (const auto measured = from_measurements(op, device, ranks, threads)) return *measured;
  const Seconds alone = roofline(op, device);
  if (!device.cpu || device.cores <= 0) return alone;
  // A CPU's figures are those of one core; a rank has as many as it has threads, unless ranks share them.
  const double wanted = static_cast<double>(ranks) * threads;
  return alone * (1.0 / (threads * std::min(1.0, device.cores / wanted)));
}

}  // namespace llmplan
