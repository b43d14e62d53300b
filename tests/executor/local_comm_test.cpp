#include <doctest/doctest.h>

#include <atomic>
#include <chrono>
#include <cmath>
#include <functional>
#include <random>
#include <thread>
#include <vector>

#include "executor/local_comm.h"
#include "tests/executor/scratch.h"

namespace llmplan {
namespace {

using Kind = Collective::Kind;

// Runs body(rank, communicator) on a thread per rank, each starting a little late, and returns the codes
// of the errors that were thrown.
std::vector<std::string> on_ranks(LocalWorld& world, const std::function<void(int, Communicator&)>& body) {
  std::vector<std::string> codes(static_cast<std::size_t>(world.size()));
  std::vector<std::thread> threads;
  for (int r = 0; r < world.size(); ++r)
    threads.emplace_back([&, r] {
      auto comm = world.communicator(r);
      std::this_thread::sleep_for(std::chrono::microseconds((r * 7919) % 300));
      codes[static_cast<std::size_t>(r)] = error_of([&] { body(r, *comm); });
    });
  for (auto& t : threads) t.join();
  return codes;
}

template <class T>
std::byte* bytes(std::vector<T>& v) { return reinterpret_cast<std::byte*>(v.data()); }

std::vector<float> random_values(int rank, std::size_t n) {
  std::mt19937 random(static_cast<unsigned>(rank) + 1);
  std::normal_distribution<float> normal(0, 1000);
  std::vector<float> v(n);
  for (auto& x : v) x = normal(random);
  return v;
}

// The definition: element by element, in rank order.
std::vector<float> sum_in_rank_order(int world, std::size_t n) {
  auto total = random_values(0, n);
  for (int r = 1; r < world; ++r) {
    auto v = random_values(r, n);
    for (std::size_t i = 0; i < n; ++i) total[i] += v[i];
  }
  return total;
}

Collective collective(Kind kind, std::size_t n, DType type = DType::fp32, Axis axis = Axis::world) {
  return {kind, axis, {static_cast<std::int64_t>(n) * size_of(type)}, type};
}

TEST_CASE("all_reduce adds in rank order, bit for bit, for any world and length") {
  for (int n : {1, 2, 3, 5, 8})
    for (std::size_t size : {1, 2, 7, 4096, 10001}) {
      LocalWorld world(1, n, 1);
      auto expected = sum_in_rank_order(n, size);
      auto codes = on_ranks(world, [&](int rank, Communicator& c) {
        for (int round = 0; round < 3; ++round) {
          auto x = random_values(rank, size);
          c.collective(collective(Kind::all_reduce, size), nullptr, bytes(x));
          CHECK(x == expected);
        }
      });
      for (auto& code : codes) CHECK(code == "none");
    }
}

TEST_CASE("reduce_scatter and all_gather, in place and not, are halves of all_reduce") {
  const int n = 4;
  const std::size_t part = 1234, size = part * n;
  LocalWorld world(n, 1, 1);
  auto expected = sum_in_rank_order(n, size);
  on_ranks(world, [&](int rank, Communicator& c) {
    std::size_t at = static_cast<std::size_t>(rank) * part;
    auto scatter = collective(Kind::reduce_scatter, size, DType::fp32, Axis::tp);
    auto gather = collective(Kind::all_gather, size, DType::fp32, Axis::tp);
    auto in_place = random_values(rank, size), source = in_place;
    c.collective(scatter, nullptr, bytes(in_place));
    CHECK(std::equal(in_place.begin() + static_cast<long>(at), in_place.begin() + static_cast<long>(at + part),
                     expected.begin() + static_cast<long>(at)));
    std::vector<float> shard(part), whole(size);
    c.collective(scatter, bytes(source), bytes(shard));
    CHECK(source == random_values(rank, size));
    CHECK(std::equal(shard.begin(), shard.end(), expected.begin() + static_cast<long>(at)));
    c.collective(gather, nullptr, bytes(in_place));
    CHECK(in_place == expected);
    c.collective(gather, bytes(shard), bytes(whole));
    CHECK(whole == expected);
  });
}

TEST_CASE("broadcast and all_to_all follow their definitions") {
  const int n = 3;
  LocalWorld world(1, n, 1);
  on_ranks(world, [&](int rank, Communicator& c) {
    auto x = random_values(rank, 100);
    c.collective(collective(Kind::broadcast, 100), nullptr, bytes(x));
    CHECK(x == random_values(0, 100));
    std::vector<std::int32_t> from(6), to(6);
    for (int i = 0; i < 6; ++i) from[static_cast<std::size_t>(i)] = 10 * rank + i;
    c.collective(collective(Kind::all_to_all, 6, DType::int32), bytes(from), bytes(to));
    for (int r = 0; r < n; ++r)
      for (int k = 0; k < 2; ++k) CHECK(to[static_cast<std::size_t>(2 * r + k)] == 10 * r + 2 * rank + k);
  });
}

TEST_CASE("fp64 sums are exact where fp32 would not be, and bf16 sums round once") {
  LocalWorld world(1, 4, 1);
  on_ranks(world, [&](int rank, Communicator& c) {
    std::vector<double> x = {rank == 0 ? 1e9 : 1.0};
    c.collective(collective(Kind::all_reduce, 1, DType::fp64), nullptr, bytes(x));
    CHECK(x[0] == 1e9 + 3);
    // 256 + 1 + 1 + 1 = 259 → 260 in bf16 (8 bits); adding in bf16 would stay at 256.
    std::vector<std::uint16_t> h = {static_cast<std::uint16_t>(rank == 0 ? 0x4380 : 0x3f80)};
    c.collective(collective(Kind::all_reduce, 1, DType::bf16), nullptr, bytes(h));
    CHECK(h[0] == 0x4382);
  });
}

TEST_CASE("Axes group the ranks that differ in one coordinate only") {
  LocalWorld world(2, 3, 2);
  on_ranks(world, [&](int rank, Communicator& c) {
    Coordinates w = world.coordinates(rank);
    CHECK(rank == w.tp + 2 * (w.dp + 3 * w.pp));
    auto sum_over = [&](Axis axis) {
      std::vector<std::int32_t> x = {1 << rank};
      c.collective(collective(Kind::all_reduce, 1, DType::int32, axis), nullptr, bytes(x));
      return x[0];
    };
    auto members = [&](auto same) {
      std::int32_t bits = 0;
      for (int r = 0; r < world.size(); ++r)
        if (same(world.coordinates(r))) bits |= 1 << r;
      return bits;
    };
    CHECK(sum_over(Axis::tp) == members([&](auto o) { return o.dp == w.dp && o.pp == w.pp; }));
    CHECK(sum_over(Axis::dp) == members([&](auto o) { return o.tp == w.tp && o.pp == w.pp; }));
    CHECK(sum_over(Axis::embedding) == members([&](auto o) { return o.tp == w.tp && o.dp == w.dp; }));
    CHECK(sum_over(Axis::world) == (1 << world.size()) - 1);
  });
}

TEST_CASE("Transfers arrive in order between the same tp and dp position of neighbouring stages") {
  LocalWorld world(2, 1, 3);
  on_ranks(world, [&](int rank, Communicator& c) {
    Coordinates w = world.coordinates(rank);
    for (int round = 0; round < 50; ++round) {
      std::vector<std::int32_t> x = {round * 100 + w.tp};
      if (w.pp > 0) {
        x[0] = -1;
        c.recv(Recv{w.pp - 1, {4}}, bytes(x));
        CHECK(x[0] == round * 100 + w.tp);
      }
      if (w.pp < 2) {
        c.send(Send{w.pp + 1, {4}}, bytes(x));
        x[0] = -2;  // the sender may reuse its buffer at once
      }
    }
  });
}

TEST_CASE("A collective is timed from the arrival of its last member") {
  LocalWorld world(1, 2, 1);
  on_ranks(world, [&](int rank, Communicator& c) {
    auto start = std::chrono::steady_clock::now();
    if (rank == 1) std::this_thread::sleep_for(std::chrono::milliseconds(50));
    std::vector<float> x(8);
    auto begun = c.collective(collective(Kind::all_reduce, 8), nullptr, bytes(x));
    CHECK(begun - start >= std::chrono::milliseconds(45));
  });
}

TEST_CASE("abort wakes ranks that wait in a collective, a send or a receive, and those that come later") {
  LocalWorld world(1, 2, 2);
  auto codes = on_ranks(world, [&](int rank, Communicator& c) {
    std::vector<float> x(8);
    if (rank == 0) c.collective(collective(Kind::all_reduce, 8, DType::fp32, Axis::dp), nullptr, bytes(x));
    if (rank == 2) c.recv(Recv{0, {32}}, bytes(x));
    if (rank == 3) c.send(Send{0, {32}}, bytes(x));
    if (rank == 1) {
      std::this_thread::sleep_for(std::chrono::milliseconds(20));
      c.abort("rank 1 failed: out of luck");
      c.collective(collective(Kind::all_reduce, 8), nullptr, bytes(x));
    }
  });
  for (auto& code : codes) CHECK(code == "E0601");
  std::string message;
  error_of([&] { world.communicator(0)->recv(Recv{1, {4}}, nullptr); }, &message);
  CHECK(message.find("rank 1 failed: out of luck") != message.npos);
}

TEST_CASE("Ranks whose programs disagree get an error instead of wrong sums") {
  LocalWorld world(1, 2, 1);
  auto codes = on_ranks(world, [&](int rank, Communicator& c) {
    std::vector<float> x(8);
    try {
      c.collective(collective(Kind::all_reduce, rank == 0 ? 8 : 4), nullptr, bytes(x));
    } catch (const Error&) {
      c.abort("mismatch");
      throw;
    }
  });
  for (auto& code : codes) CHECK((code == "E0320" || code == "E0601"));
}

}  // namespace
}  // namespace llmplan
