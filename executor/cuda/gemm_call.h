// What a matrix product asks of cuBLASLt, as plain data: gemm.cpp turns it into descriptors, and the tests'
// emulated device carries it out on the host. So the mapping from op to call is tested without a GPU.
#pragma once

#include <cstdint>

#include "costmodel/op.h"

namespace llmplan::cuda {

// A column-major matrix; `leading` is the distance between columns, in elements.
struct LtMatrix { DType type; std::int64_t rows, columns, leading; };

// D = op(first)·op(second) + beta·D, column-major, summed in fp32. `scaled`: the product is multiplied by a factor of
// each operand, read from device memory. `fast_sum`: 8-bit tensor cores may keep fewer bits of partial sums.
struct LtCall {
  bool transpose_first, transpose_second;
  LtMatrix first, second, result;
  float beta;
  bool scaled, fast_sum;
};

// A row-major matrix is its own transpose in column-major order: c = a·b becomes cᵀ = bᵀ·aᵀ, and the library's
// first operand is our b.
// Sums of weight gradients, which are fp32, keep all bits.
constexpr LtCall lt_call(const Gemm& g) {
  const bool scaled = is_fp8(g.in);
  const DType b_type = scaled ? DType::fp8_e4m3 : g.in;
  auto matrix = [](DType t, std::int64_t rows, std::int64_t columns) { return LtMatrix{t, rows, columns, rows}; };
  return {g.b_transposed,
          g.a_transposed,
          g.b_transposed ? matrix(b_type, g.k, g.n) : matrix(b_type, g.n, g.k),
          g.a_transposed ? matrix(g.in, g.m, g.k) : matrix(g.in, g.k, g.m),
          matrix(g.out, g.n, g.m),
          g.accumulate ? 1.0f : 0.0f,
          scaled,
          scaled && g.out != DType::fp32};
}

}  // namespace llmplan::cuda
