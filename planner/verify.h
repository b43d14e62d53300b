// What must hold before either interpreter runs.
#pragma once

#include <string>
#include <vector>

#include "planner/program.h"

namespace llmplan {

// Two unordered accesses to shared bytes, at least one of them a write.
struct Hazard { InstrId first, second; BufferId a, b; };
// Exact as a predicate: empty if and only if there is none. Of several accesses that conflict with one
// later access, only the last on each stream is listed.
std::vector<Hazard> find_hazards(const Program&, const Layout&);

// A read of bytes that hold something else: never written, or overwritten through another buffer.
struct StaleRead { InstrId reader; BufferId buffer; InstrId overwritten_by; BufferId by; };  // -1: never written
std::vector<StaleRead> find_stale_reads(const Program&, const Layout&);

// The sizes that an op's operands must have, in the order of op.h. What may follow is optional.
struct OperandSizes {
  std::vector<Bytes> reads, writes;
  std::vector<Bytes> optional_reads;  // all or none of them
};
OperandSizes operand_sizes(const Op&);

std::string describe(const Program&, InstrId);  // "stage 1 #412 send 4.0 MiB to stage 2 (layers.7, mb 3, down)"

// Everything a program must satisfy before it may run: no hazards, operands inside their buffers and
// of the size that the op needs, sends and receives that pair up in order, no deadlock. Throws Error
// E0320 that names the instruction.
void verify(const std::vector<Program>&, const std::vector<Layout>&);

}  // namespace llmplan
