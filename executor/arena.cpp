#include "executor/arena.h"

#include <fmt/format.h>
#include <sys/mman.h>

#include <cstdint>
#include <cstring>
#include <utility>

#include "costmodel/error.h"

namespace llmplan {

Arena::Arena(Bytes size, Use use) {
  if (size.value == 0) return;
  constexpr std::size_t kHuge = std::size_t{2} << 20;
  const auto n = static_cast<std::size_t>(size.value);
  // Mapped with a huge page to spare, and the spare given back, so that the start is aligned.
  void* raw = ::mmap(nullptr, n + kHuge, PROT_READ | PROT_WRITE, (use == Use::shared ? MAP_SHARED : MAP_PRIVATE) | MAP_ANONYMOUS, -1, 0);
  if (raw == MAP_FAILED)
    throw Error("E0340", Exit::nothing_fits,
                fmt::format("the system refuses {:.1f} MiB of memory", static_cast<double>(n) / (1 << 20)),
                "free memory, or plan with a smaller --micro-batch or with --recompute full");
  auto begin = reinterpret_cast<std::uintptr_t>(raw);
  auto aligned = (begin + kHuge - 1) / kHuge * kHuge;
  auto end = begin + n + kHuge, used_end = (aligned + n + 4095) / 4096 * 4096;
  if (aligned > begin) ::munmap(raw, aligned - begin);
  if (end > used_end) ::munmap(reinterpret_cast<void*>(used_end), end - used_end);
  data_ = reinterpret_cast<std::byte*>(aligned);
  size_ = size;
  ::madvise(data_, n, MADV_HUGEPAGE);
  std::memset(data_, 0xff, n);
}
Arena::~Arena() {
  if (data_) ::munmap(data_, static_cast<std::size_t>(size_.value));
}
Arena::Arena(Arena&& o) noexcept : data_(std::exchange(o.data_, nullptr)), size_(std::exchange(o.size_, Bytes{})) {}
Arena& Arena::operator=(Arena&& o) noexcept {
  std::swap(data_, o.data_);
  std::swap(size_, o.size_);
  return *this;
}

}  // namespace llmplan
