#include <doctest/doctest.h>

#include <atomic>
#include <stdexcept>
#include <thread>
#include <vector>

#include "executor/cpu/thread_pool.h"

namespace llmplan::cpu {
namespace {

TEST_CASE("every tile runs exactly once, whatever the number of threads and tiles") {
  for (const int threads : {1, 2, 3, 8}) {
    ThreadPool pool(threads);
    CHECK(pool.threads() == threads);
    for (const std::int64_t tiles : {0, 1, 2, 3, 7, 100, 1000}) {
      std::vector<int> runs(static_cast<std::size_t>(tiles), 0);  // plain ints: a second run is a data race too
      pool.parallel_for(tiles, [&](std::int64_t t) { ++runs[static_cast<std::size_t>(t)]; });
      CHECK(runs == std::vector<int>(static_cast<std::size_t>(tiles), 1));
    }
  }
}

TEST_CASE("what the tiles wrote is visible after the loop, thousands of loops in a row") {
  ThreadPool pool(3);
  std::vector<std::int64_t> x(5);
  std::int64_t wrong = 0;
  for (std::int64_t round = 0; round < 5000; ++round) {
    pool.parallel_for(5, [&](std::int64_t t) { x[static_cast<std::size_t>(t)] = round * 10 + t; });
    for (std::int64_t t = 0; t < 5; ++t) wrong += x[static_cast<std::size_t>(t)] != round * 10 + t;
  }
  CHECK(wrong == 0);
}

TEST_CASE("an exception in a tile reaches the caller, and the pool goes on working") {
  ThreadPool pool(3);
  for (int round = 0; round < 50; ++round) {
    CHECK_THROWS_WITH_AS(pool.parallel_for(20, [](std::int64_t t) { if (t == 7) throw std::runtime_error("tile 7"); }),
                         "tile 7", std::runtime_error);
    std::atomic<int> runs{0};
    pool.parallel_for(20, [&](std::int64_t) { ++runs; });
    CHECK(runs == 20);
  }
}

TEST_CASE("one tile, and one thread, run on the caller's own thread") {
  const auto self = std::this_thread::get_id();
  ThreadPool one(1), many(4);
  bool here = true;
  one.parallel_for(9, [&](std::int64_t) { here = here && std::this_thread::get_id() == self; });
  many.parallel_for(1, [&](std::int64_t) { here = here && std::this_thread::get_id() == self; });
  CHECK(here);
}

TEST_CASE("pools of several threads work side by side, and more of them than there are cores") {
  std::vector<std::thread> ranks;
  std::atomic<std::int64_t> total{0};
  for (int r = 0; r < 4; ++r)
    ranks.emplace_back([&] {
      ThreadPool pool(3);
      for (int i = 0; i < 200; ++i) pool.parallel_for(11, [&](std::int64_t t) { total += t; });
    });
  for (std::thread& r : ranks) r.join();
  CHECK(total == 4 * 200 * 55);
}

}  // namespace
}  // namespace llmplan::cpu
