#include "executor/cpu/scratch.h"

#include <cstdlib>
#include <memory>
#include <new>

namespace llmplan::cpu {

float* scratch(ScratchUse use, std::int64_t floats) {
  struct Free { void operator()(float* p) const { std::free(p); } };
  struct Block { std::unique_ptr<float, Free> memory; std::int64_t floats = 0; };
  thread_local Block blocks[2];
  Block& b = blocks[static_cast<int>(use)];
  if (b.floats < floats) {
    const std::size_t bytes = (static_cast<std::size_t>(floats) * sizeof(float) + 4095) / 4096 * 4096;
    b.memory.reset();
    b.floats = 0;
    b.memory.reset(static_cast<float*>(std::aligned_alloc(4096, bytes)));
    if (!b.memory) throw std::bad_alloc();
    b.floats = floats;
  }
  return b.memory.get();
}

}  // namespace llmplan::cpu
