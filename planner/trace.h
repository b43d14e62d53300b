// A timeline, predicted or measured, as a file for chrome://tracing and ui.perfetto.dev.
#pragma once

#include <string>
#include <vector>

#include "planner/program.h"
#include "planner/simulate.h"

namespace llmplan {

struct Track {  // one process in the viewer, with a thread per stream
  std::string name;                // "stage 2", "rank 5"
  const Program* program = nullptr;
  const Timeline* timeline = nullptr;
};
// Trace Event Format, JSON object form: complete events in microseconds, and the bytes of each track's live
// device buffers as a counter. A timeline may lack instructions at its end.
std::string trace_json(const std::vector<Track>&);
std::string trace_json(const std::vector<Program>&, const Simulation&);

}  // namespace llmplan
