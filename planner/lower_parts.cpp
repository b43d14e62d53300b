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

Normed norm(Builder& b, Residual& r, const Weight& w) {
  const Shapes& s = b.shape;
  const std::int64_t elements = s.split_rows * s.hidden;
  const BufferId y = b.activation("xn", elements);
  const BufferId rstd = b.buffer("rstd", s.split_rows, DType::fp32);
  if (r.delta < 0) {
    b.emit(RmsNorm{s.split_rows, s.hidden, false, s.eps, s.dtype}, {b.all(r.sum), b.value(w)},
           {b.all(y), b.all(rstd)});
  } else {
    const BufferId sum = r.saved ? b.activation("sum", elements) : r.sum;
    b.emit(RmsNorm{s.split_rows, s.hidden, true, s.eps, s.dtype}, {b.all(r.sum), b.value(w), b.all(r.delta)},
           {b.all(y), b.all(rstd), b.all(sum)});
    r = {sum, -1, false};
  }
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
