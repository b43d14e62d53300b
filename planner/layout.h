// Where every buffer sits.
#pragma once

#include "planner/program.h"

namespace llmplan {

// Offsets in one arena per space; adds the waits that reuse of bytes needs. Deterministic.
Layout place(Program&);

}  // namespace llmplan
