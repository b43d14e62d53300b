#include "executor/cpu/scratch.h"

#include <sys/mman.h>

#include <cstdlib>
#include <memory>
#include <new>

namespace llmplan::cpu {

constexpr std::size_t kHuge = std::size_t{2} << 20;

float* scratch(ScratchUse use, std::int64_t floats) {
  struct Free { void operator()(float* p) const { std::free(p); } };
  struct Block { std::unique_ptr<float, Free> memory; std::int64_t floats = 0; };
  thread_local Block blocks[2];
  Block& b = blocks[static_cast<int>(use)];
  if (b.floats < floats) {
    std::size_t bytes = static_cast<std::size_t>(floats) * sizeof(float);
    const std::size_t page = bytes > kHuge / 2 ? kHuge : 4096;
    bytes = (bytes + page - 1) / page * page;
    b.memory.reset();
    b.floats = 0;
    b.memory.reset(static_cast<float*>(std::aligned_alloc(page, bytes)));
    if (!b.memory) throw std::bad_alloc();
#ifdef MADV_HUGEPAGE
    if (page == kHuge) ::madvise(b.memory.get(), bytes, MADV_HUGEPAGE);  // fewer misses of the TLB
#endif
    b.floats = floats;
  }
  return b.memory.get();
}

}  // namespace llmplan::cpu
