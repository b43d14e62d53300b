#include "executor/nvml.h"

#include <doctest/doctest.h>

#include <cstring>

using namespace llmplan;

namespace {

// A management library that knows one card with two processes.
Nvml fake() {
  Nvml f;
  f.init = [] { return 0; };
  f.by_bus = [](const char* bus, void** device) {
    *device = nullptr;
    return std::strcmp(bus, "0000:1b:00.0") == 0 ? 0 : 6;  // 6: not found
  };
  f.memory = [](void*, Nvml::Memory* m) { *m = {1000, 300, 700}; return 0; };
  f.processes = [](void*, unsigned* count, Nvml::Process* p) {
    if (*count < 2) return 7;  // 7: the list is too short
    p[0] = {41, 600, 0, 0};
    p[1] = {42, 90, 0, 0};
    *count = 2;
    return 0;
  };
  return f;
}

}  // namespace

TEST_CASE("A GPU's memory is told for the card and for this process among others") {
  const auto m = gpu_memory(fake(), "0000:1b:00.0", 42);
  REQUIRE(m);
  CHECK(m->total.value == 1000);
  CHECK(m->used.value == 700);
  CHECK(m->own.value == 90);
  CHECK(gpu_memory(fake(), "0000:1b:00.0", 43)->own.value == 0);  // a container sees other process numbers
}

TEST_CASE("A card that the library does not know, and an old driver without a list of processes, are no error") {
  CHECK(!gpu_memory(fake(), "0000:ff:00.0", 42));
  Nvml old = fake();
  old.processes = nullptr;
  const auto m = gpu_memory(old, "0000:1b:00.0", 42);
  REQUIRE(m);
  CHECK(m->used.value == 700);
  CHECK(m->own.value == 0);
}
