#include <doctest/doctest.h>

#include <cstdio>

#include "tests/gpu/device.h"

// Says why the other tests are skipped, where they are: ctest reports this run as skipped then.
TEST_CASE("the tests of this binary say whether they had a GPU") {
  if (llmplan::cuda::test::no_gpu()) std::puts("no usable GPU on this machine: the GPU tests are skipped");
  else std::puts("a GPU is here: the GPU tests run");
}
