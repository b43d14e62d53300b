// Memory that processes forked from this one share with it, at the same addresses, and words in it to
// sleep on.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>

namespace llmplan {

// Zeros. Pages take memory only once they are touched.
class SharedMemory {
 public:
  explicit SharedMemory(std::size_t bytes);  // Error E0340
  ~SharedMemory();
  SharedMemory(const SharedMemory&) = delete;
  SharedMemory& operator=(const SharedMemory&) = delete;

  // The next `count` objects, value-initialised. They must not need a destructor.
  template <class T>
  T* take(std::size_t count = 1) {
    T* objects = static_cast<T*>(next(count * sizeof(T)));
    for (std::size_t i = 0; i < count; ++i) new (objects + i) T();
    return objects;
  }
  static constexpr std::size_t kAlignment = 64;  // of what take() returns: a cache line
  // What take<T>(count) uses up.
  template <class T>
  static std::size_t room_for(std::size_t count = 1) {
    static_assert(alignof(T) <= kAlignment);
    return (count * sizeof(T) + kAlignment - 1) / kAlignment * kAlignment;
  }

 private:
  void* next(std::size_t bytes);

  std::byte* data_ = nullptr;
  std::size_t size_ = 0, taken_ = 0;
};

// std::atomic's own wait() works within one process only, and a condition variable of the C library may
// stay locked for ever when the process that holds it is killed. A futex has no holder.
using Word = std::atomic<std::uint32_t>;
void sleep_while(const Word&, std::uint32_t value) noexcept;  // may return early
void wake_all(Word&) noexcept;

}  // namespace llmplan
