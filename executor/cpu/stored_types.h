// Operands that are stored in 8 or 16 bits. The kernels compute in fp32: such operands are widened, whole, to
// scratch, and results are rounded on the way back. What is stored has the type that the program says.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include "costmodel/op.h"

namespace llmplan::cpu {

struct StoredOperand {
  std::size_t index;       // among the op's reads or writes
  std::int64_t elements;
  DType type;
  bool updated = false;    // writes only: the op also reads what is there
  int factor = -1;         // fp8, reads only: which operand multiplies it
};
// The first result, which is written quantised, or its transpose, or both; its factor is the last operand.
struct StoredQuantized {
  std::int64_t rows, columns;
  DType type;
};
struct StoredTypes {
  Op wide;                 // the same op on fp32
  std::vector<StoredOperand> reads, writes;  // those that are not fp32
  std::optional<StoredQuantized> quantized;
  bool any() const { return !reads.empty() || !writes.empty(); }
  std::int64_t floats() const;               // scratch for all of them
};

// Nothing for ops that know their types themselves: AdamW, and those that only count or move bytes.
StoredTypes stored_types(const Op&);

}  // namespace llmplan::cpu
