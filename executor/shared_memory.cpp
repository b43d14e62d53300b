#include "executor/shared_memory.h"

#include <fmt/format.h>
#include <linux/futex.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <climits>
#include <new>

#include "costmodel/error.h"

namespace llmplan {

SharedMemory::SharedMemory(std::size_t bytes) : size_(bytes) {
  if (bytes == 0) return;
  void* at = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (at == MAP_FAILED)
    throw Error("E0340", Exit::nothing_fits,
                fmt::format("the system refuses {:.1f} MiB of shared memory", static_cast<double>(bytes) / (1 << 20)),
                "free memory, or plan with a smaller --micro-batch or with --recompute full");
  data_ = static_cast<std::byte*>(at);
}

SharedMemory::~SharedMemory() {
  if (data_) ::munmap(data_, size_);
}

void* SharedMemory::next(std::size_t bytes) {
  void* at = data_ + taken_;
  taken_ += (bytes + kAlignment - 1) / kAlignment * kAlignment;
  if (taken_ > size_) throw std::bad_alloc();  // whoever made it counted wrongly
  return at;
}

static_assert(Word::is_always_lock_free && sizeof(Word) == 4);

void sleep_while(const Word& word, std::uint32_t value) noexcept {
  ::syscall(SYS_futex, &word, FUTEX_WAIT, value, nullptr, nullptr, 0);
}
void wake_all(Word& word) noexcept { ::syscall(SYS_futex, &word, FUTEX_WAKE, INT_MAX, nullptr, nullptr, 0); }

}  // namespace llmplan
