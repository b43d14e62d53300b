// Random programs of one stage, and the definitions of order and conflict in their plainest form.
#pragma once

#include <algorithm>
#include <random>
#include <vector>

#include "planner/happens_before.h"
#include "planner/program.h"

namespace llmplan {

// Buffers are first written as a whole, then read and written in parts, by compute, by transfers in both
// directions and by dp collectives.
inline Program random_program(unsigned seed, int instrs = 40, int buffers = 14) {
  std::mt19937 rng(seed);
  const auto below = [&](int n) { return static_cast<int>(rng() % static_cast<unsigned>(n)); };
  Program p;
  p.stage = 1;
  for (int b = 0; b < buffers; ++b) {
    Buffer buffer;
    buffer.name = "b" + std::to_string(b);
    buffer.size = {256 * (1 + below(8)) - below(2) * 100};
    buffer.persistent = b < 2;
    buffer.space = below(8) == 0 ? Space::host : Space::device;
    p.buffers.push_back(buffer);
  }
  std::vector<BufferId> alive{0, 1};
  BufferId next = 2;
  const auto part = [&](BufferId b) {
    const std::int64_t size = p.buffers[b].size.value;
    if (below(2)) return Ref{b, {}, {size}};
    const std::int64_t begin = rng() % size, end = begin + 1 + rng() % (size - begin);
    return Ref{b, {begin}, {end - begin}};
  };
  for (int i = 0; i < instrs; ++i) {
    Instr in;
    in.micro_batch = i;
    Ref out;
    if (next < buffers && below(2)) {
      out = {next, {}, p.buffers[next].size};
      alive.push_back(next++);
    } else {
      out = part(alive[below(static_cast<int>(alive.size()))]);
    }
    const Ref read = part(alive[below(static_cast<int>(alive.size()))]);
    const bool fresh = alive.back() == out.buffer && out.offset.value == 0 && out.size == p.buffers[out.buffer].size;
    switch (below(fresh ? 4 : 6)) {
      case 0: in.op = Recv{2, out.size}, in.writes = {out}; break;
      case 1: in.op = Recv{0, out.size}, in.writes = {out}; break;
      case 2: in.op = Collective{Collective::Kind::broadcast, Axis::dp, out.size, DType::fp32}, in.writes = {out}; break;
      case 3: in.op = Add{out.size.value / 4, DType::fp32}, in.writes = {out};
        if (read.buffer != out.buffer) in.reads = {read};
        break;
      case 4: in.op = Send{2, read.size}, in.reads = {read}; break;
      case 5: in.op = Send{0, read.size}, in.reads = {read}; break;
    }
    p.instrs.push_back(in);
    if (alive.size() > 6) {
      const int victim = 2 + below(static_cast<int>(alive.size()) - 2);
      alive.erase(alive.begin() + victim);
    }
  }
  return p;
}

// closure[a][b]: a has finished before b starts. Floyd and Warshall on streams and waits.
inline std::vector<std::vector<bool>> ordered_by_definition(const Program& p) {
  const std::size_t n = p.instrs.size();
  std::vector<std::vector<bool>> before(n, std::vector<bool>(n));
  for (std::size_t b = 0; b < n; ++b) {
    for (std::size_t a = 0; a < b; ++a) before[a][b] = p.instrs[a].stream == p.instrs[b].stream;
    for (InstrId w : p.instrs[b].waits) before[w][b] = true;
  }
  for (std::size_t k = 0; k < n; ++k)
    for (std::size_t a = 0; a < n; ++a)
      if (before[a][k])
        for (std::size_t b = 0; b < n; ++b)
          if (before[k][b]) before[a][b] = true;
  return before;
}

struct Conflict { InstrId first, second; };
// Pairs of instructions that touch a common byte, one of them writing it, when buffers lie at `at`.
inline std::vector<Conflict> conflicts(const Program& p, const std::vector<std::int64_t>& at) {
  const auto meet = [&](const std::vector<Ref>& x, const std::vector<Ref>& y) {
    for (const Ref& a : x)
      for (const Ref& b : y) {
        const std::int64_t begin_a = at[a.buffer] + a.offset.value, begin_b = at[b.buffer] + b.offset.value;
        if (begin_a < begin_b + b.size.value && begin_b < begin_a + a.size.value) return true;
      }
    return false;
  };
  std::vector<Conflict> found;
  for (InstrId j = 0; j < static_cast<InstrId>(p.instrs.size()); ++j)
    for (InstrId i = 0; i < j; ++i)
      if (meet(p.instrs[i].writes, p.instrs[j].writes) || meet(p.instrs[i].writes, p.instrs[j].reads) ||
          meet(p.instrs[i].reads, p.instrs[j].writes))
        found.push_back({i, j});
  return found;
}
inline int unordered_conflicts(const Program& p, const std::vector<std::int64_t>& at) {
  const auto before = ordered_by_definition(p);
  int n = 0;
  for (const Conflict& c : conflicts(p, at)) n += !before[c.first][c.second];
  return n;
}

inline std::size_t count_waits(const Program& p) {
  std::size_t n = 0;
  for (const Instr& i : p.instrs) n += i.waits.size();
  return n;
}

// Calls f with a copy of the program that lacks one wait, for every wait.
template <class F>
void without_each_wait(const Program& p, F&& f) {
  for (InstrId i = 0; i < static_cast<InstrId>(p.instrs.size()); ++i)
    for (std::size_t k = 0; k < p.instrs[i].waits.size(); ++k) {
      Program copy = p;
      copy.instrs[i].waits.erase(copy.instrs[i].waits.begin() + static_cast<std::ptrdiff_t>(k));
      f(copy, i, p.instrs[i].waits[k]);
    }
}

}  // namespace llmplan
