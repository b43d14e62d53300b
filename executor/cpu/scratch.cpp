#include "executor/cpu/scratch.h"

#include <sys/mman.h>

#include <atomic>
#include <cstdlib>
#include <new>

namespace llmplan::cpu {
namespace {

constexpr std::int64_t kPage = 4096, kHugePage = std::int64_t{2} << 20;
std::int64_t page_for(std::int64_t bytes) { return bytes > kHugePage / 2 ? kHugePage : kPage; }

std::atomic<std::int64_t> held{0};

struct Block {
  float* memory = nullptr;
  std::int64_t bytes = 0;
  void release() {
    std::free(memory);
    held -= bytes;
    memory = nullptr, bytes = 0;
  }
  ~Block() { release(); }
};

}  // namespace

std::int64_t scratch_bytes(std::int64_t floats) {
  const std::int64_t bytes = floats * static_cast<std::int64_t>(sizeof(float)), page = page_for(bytes);
  return (bytes + page - 1) / page * page;
}

std::int64_t scratch_held() { return held; }

float* scratch(ScratchUse use, std::int64_t floats) {
  thread_local Block blocks[3];
  Block& b = blocks[static_cast<int>(use)];
  const std::int64_t bytes = scratch_bytes(floats);
  if (b.bytes < bytes) {
    b.release();
    const auto page = static_cast<std::size_t>(page_for(bytes));
    b.memory = static_cast<float*>(std::aligned_alloc(page, static_cast<std::size_t>(bytes)));
    if (!b.memory) throw std::bad_alloc();
    b.bytes = bytes;
    held += bytes;
#ifdef MADV_HUGEPAGE
    if (page > kPage) ::madvise(b.memory, static_cast<std::size_t>(bytes), MADV_HUGEPAGE);  // fewer misses of the TLB
#endif
  }
  return b.memory;
}

}  // namespace llmplan::cpu
