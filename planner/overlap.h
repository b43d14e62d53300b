// Which work may run at the same time.
#pragma once

#include "planner/program.h"

namespace llmplan {

// Moves transfers to their streams and adds the waits that the dataflow needs across streams.
// `enabled` false leaves tp and dp collectives on the compute stream (point-to-point always moves).
void overlap(Program&, bool enabled = true);

}  // namespace llmplan
