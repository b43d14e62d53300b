// Between fp32, in which the kernels compute, and the types in which operands are stored.
#pragma once

#include <cstddef>
#include <cstdint>

#include "costmodel/op.h"

namespace llmplan::cpu {

void widen(DType type, const std::byte* from, float* to, std::int64_t n);
void narrow(DType type, const float* from, std::byte* to, std::int64_t n);  // to nearest, ties to even

}  // namespace llmplan::cpu
