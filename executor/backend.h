// What a device must offer so that execute() can interpret a program on it: in-order streams, waits
// between them, and a kernel per op. The CPU backend's streams are threads, CUDA's are streams and
// events.
#pragma once

#include <concepts>
#include <cstdint>

#include "planner/program.h"
#include "planner/simulate.h"

namespace llmplan {

// Where a rank stands in the strategy's grid. rank = tp + tp_size·(dp + dp_size·pp).
struct Coordinates {
  int rank = 0, world = 1;
  int tp = 0, dp = 0, pp = 0;
  int tp_size = 1, dp_size = 1, pp_size = 1;
};

// What changes from step to step and is not part of the program.
struct StepScalars {
  std::int64_t step = 1;       // from 1: the exponent of Adam's bias correction
  double learning_rate = 0;
};

template <class B>
concept Backend = requires(B b, const Program& p, InstrId i, Stream s) {
  b.wait(s, i);          // stream s goes on only after instruction i has finished
  b.launch(p, i);        // enqueue instruction i on its stream
  b.synchronize();       // returns when all streams are idle; throws what a launch threw
  { b.timeline() } -> std::convertible_to<Timeline>;  // of everything since the last synchronize
};

// The second interpreter, whole.
template <Backend B>
Timeline execute(const Program& program, B& backend) {
  for (InstrId i = 0; i < static_cast<InstrId>(program.instrs.size()); ++i) {
    for (InstrId w : program.instrs[i].waits) backend.wait(program.instrs[i].stream, w);
    backend.launch(program, i);
  }
  backend.synchronize();
  return backend.timeline();
}

}  // namespace llmplan
