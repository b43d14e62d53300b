// What must hold before either interpreter runs.
#pragma once

#include <string>
#include <vector>
#include "planner/program.h"

namespace llmplan {

// Two unordered accesses to shared bytes, at least one of them a write.
struct Hazard { InstrId first, second; BufferId a, b; };
std::vector<Hazard> find_hazards(const Program&, const Layout&);
std::string describe(const Program&, InstrId);  // "stage 1 #412 send 4.0 MiB to stage 2 (layers.7, mb 3, down)"

// Everything a program must satisfy before it may run: no hazards, operands inside their buffers and
// of the size that the op needs, sends and receives that pair up in order, no deadlock. Throws Error
// E0320 that names the instruction.
void verify(const std::vector<Program>&, const std::vector<Layout>&);

}  // namespace llmplan
