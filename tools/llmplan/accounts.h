// A program's bytes and seconds, grouped so that a person can follow them.
#pragma once

#include <string>
#include <vector>

#include "planner/program.h"
#include "planner/simulate.h"

namespace llmplan::cli {

struct ByteAccount {  // `count` buffers of one kind and size
  std::string category, name, formula;
  std::int64_t count = 0;
  Bytes each{};
  Bytes total() const { return each * count; }
};
// Of everything alive at the moment, in issue order, when most is; the last row is what alignment and
// fragmentation add. The rows add up to the arena.
std::vector<ByteAccount> byte_accounts(const Program&, const Layout&);

struct TimeAccount {  // `count` equal ops of one phase
  std::string op, kind, phase;
  std::int64_t count = 0;
  Seconds each{};     // alone
  Flops flops{};      // of one
  Bytes bytes{};      // that one moves
  Seconds total() const { return each * static_cast<double>(count); }
};
std::vector<TimeAccount> time_accounts(const Program&, const TimeModel&);  // longest first

// "gemm m=2048 n=768 k=256", from the op's own field list.
std::string op_text(const Op&);

}  // namespace llmplan::cli
