// What the blocks of a decoder are made of: linears, norms, and the collectives of tensor parallelism.
#include "planner/builder.h"

namespace llmplan::lowering {

void linear(Builder& b, Ref x, const Weight& w, Ref y, std::int64_t rows) {
  const DType t = b.shape.dtype;
  b.emit(Gemm{rows, w.out, w.in, false, true, false, t, t}, {x, b.value(w)}, {y});
}

void linear_dx(Builder& b, Ref dy, const Weight& w, Ref dx, std::int64_t rows) {
  const DType t = b.shape.dtype;
  b.emit(Gemm{rows, w.in, w.out, false, false, false, t, t}, {dy, b.value(w)}, {dx});
}

void linear_dw(Builder& b, Ref dy, Ref x, Weight& w, std::int64_t rows) {
  b.emit(Gemm{w.out, w.in, rows, true, false, w.written, b.shape.dtype, DType::fp32}, {dy, x}, {b.gradient(w)});
  w.written = true;
}

namespace {

// A weight for one product, quantised one way. It lives no longer than that: both ways of all weights would
// cost as much memory as the weights.
Operand quantized_weight(Builder& b, const Weight& w, bool transposed) {
  const BufferId q = b.buffer("w8", w.elements(), DType::fp8_e4m3, Category::buffers);
  const BufferId factor = b.buffer("w8_factor", 1 + w.out, DType::fp32, Category::buffers);
  b.emit(Quantize{w.out, w.in, !transposed, transposed, b.shape.dtype, DType::fp8_e4m3}, {b.value(w)}, {b.all(q), b.all(factor)});
  return transposed ? Operand{-1, q, factor} : Operand{q, -1, factor};
}

Ref factor_of(Builder& b, const Operand& o) { return b.rows(o.factor, 0, 1, 1); }

}  // namespace

void layer_linear(Builder& b, const Operand& x, const Weight& w, BufferId y) {
  const Shapes& s = b.shape;
  if (!s.fp8) return linear(b, b.all(x.x), w, b.all(y), s.rows);
  const Operand q = quantized_weight(b, w, false);
  b.emit(Gemm{s.rows, w.out, w.in, false, true, false, DType::fp8_e4m3, s.dtype},
         {b.all(x.x), b.all(q.x), factor_of(b, x), factor_of(b, q)}, {b.all(y)});
}

void layer_linear_dx(Builder& b, const Operand& dy, const Weight& w, BufferId dx) {
  const Shapes& s = b.shape;
  if (!s.fp8) return linear_dx(b, b.all(dy.x), w, b.all(dx), s.rows);
  const Operand q = quantized_weight(b, w, true);
  b.emit(Gemm{s.rows, w.in, w.out, false, true, false, DType::fp8_e5m2, s.dtype},
         {b.all(dy.x), b.all(q.transposed), factor_of(b, dy), factor_of(b, q)}, {b.all(dx)});
}

void layer_linear_dw(Builder& b, const Operand& dy, const Operand& x, Weight& w) {
  const Shapes& s = b.shape;
  if (!s.fp8) return linear_dw(b, b.all(dy.x), b.all(x.x), w, s.rows);
  b.emit(Gemm{w.out, w.in, s.rows, false, true, w.written, DType::fp8_e5m2, DType::fp32},
         {b.all(dy.transposed), b.all(x.transposed), factor_of(b, dy), factor_of(b, x)}, {b.gradient(w)});
  w.written = true;
}

Operand operand(Builder& b, BufferId x, std::int64_t columns, DType to, Layout8 layout) {
  const Shapes& s = b.shape;
  if (!s.fp8) return {x, -1, -1};
  const bool straight = layout != Layout8::transposed, transposed = layout != Layout8::straight;
  Operand q;
  if (straight) q.x = b.buffer("x8", s.rows * columns, to);
  if (transposed) q.transposed = b.buffer("x8_t", s.rows * columns, to);
  q.factor = b.buffer("x8_factor", 1 + s.rows, DType::fp32);
  b.emit(Quantize{s.rows, columns, straight, transposed, s.dtype, to}, {b.all(x)},
         {b.all_if(straight, q.x), b.all_if(transposed, q.transposed), b.all(q.factor)});
  return q;
}

Operand quantized_result(Builder& b, std::string_view what, std::int64_t rows, std::int64_t columns, DType to) {
  if (!b.shape.fp8) return {b.activation(what, rows * columns), -1, -1};
  const BufferId straight = b.buffer(what, rows * columns, to);
  return {straight, b.buffer("x8_t", rows * columns, to), b.buffer("x8_factor", 1 + rows, DType::fp32)};
}

Normed norm(Builder& b, Residual& r, const Weight& w, bool for_layer) {
  const Shapes& s = b.shape;
  const std::int64_t elements = s.split_rows * s.hidden;
  const bool quantize = s.fp8 && !s.sp && for_layer, residual = r.delta >= 0;
  const Operand y = quantize ? quantized_result(b, "xn", s.split_rows, s.hidden, DType::fp8_e4m3)
                             : Operand{b.activation("xn", elements), -1, -1};
  const BufferId rstd = b.buffer("rstd", s.split_rows, DType::fp32);
  const BufferId sum = !residual ? -1 : r.saved ? b.activation("sum", elements) : r.sum;
  b.emit(RmsNorm{s.split_rows, s.hidden, residual, s.eps, s.dtype, quantize},
         {b.all(r.sum), b.value(w), b.all_if(residual, r.delta)},
         {b.all(y.x), b.all(rstd), b.all_if(residual, sum), b.all_if(quantize, y.transposed), b.all_if(quantize, y.factor)});
  if (residual) r = {sum, -1, false};
  return {y, rstd};
}

BufferId norm_grad(Builder& b, BufferId sum, BufferId rstd, Weight& w, BufferId dy, BufferId residual) {
  const Shapes& s = b.shape;
  const bool in_place = residual >= 0;
  const BufferId dx = in_place ? residual : b.activation("dsum", s.split_rows * s.hidden);
  const BufferId partial =
      b.buffer("partial", norm_grad_blocks(s.split_rows) * s.hidden, DType::fp32, Category::buffers);
  const RmsNormGrad op{s.split_rows, s.hidden, in_place, w.written, s.dtype};
  if (in_place)
    b.emit(op, {b.all(sum), b.all(rstd), b.value(w), b.all(dy), b.all(residual)},
           {b.all(dx), b.gradient(w), b.all(partial)});
  else
    b.emit(op, {b.all(sum), b.all(rstd), b.value(w), b.all(dy)}, {b.all(dx), b.gradient(w), b.all(partial)});
  w.written = true;
  return dx;
}

BufferId gather_rows(Builder& b, BufferId x) {
  const Shapes& s = b.shape;
  if (!s.sp) return x;
  const BufferId whole = b.activation("gathered", s.rows * s.hidden);
  b.emit(Collective{Collective::Kind::all_gather, Axis::tp, b.all(whole).size, s.dtype}, {b.all(x)},
         {b.all(whole)});
  return whole;
}

BufferId reduce_partial(Builder& b, BufferId x) {
  const Shapes& s = b.shape;
  if (s.tp == 1) return x;
  if (!s.sp) {
    reduce(b, Axis::tp, b.all(x), s.dtype);
    return x;
  }
  const BufferId own = b.activation("scattered", s.split_rows * s.hidden);
  b.emit(Collective{Collective::Kind::reduce_scatter, Axis::tp, b.all(x).size, s.dtype}, {b.all(x)},
         {b.all(own)});
  return own;
}

void reduce(Builder& b, Axis axis, Ref x, DType dtype) {
  b.emit(Collective{Collective::Kind::all_reduce, axis, x.size, dtype}, {}, {x});
}

}  // namespace llmplan::lowering
