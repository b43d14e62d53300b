// What a simulated step looks like: who was busy when, and how much memory was alive.
#pragma once

#include <string>
#include <vector>

#include "planner/build.h"
#include "planner/simulate.h"

namespace llmplan::cli {

struct StageSummary {
  Seconds compute{};       // the compute stream's busy time
  Seconds recompute{};     // of it, recomputation
  Seconds transfers{};     // busy time of all other streams
  Seconds exposed{};       // transfers run, compute idle
  Seconds idle{};          // nothing runs: the bubble
  Bytes arena{}, live_peak{};
  Seconds peak_at{};       // when live_peak bytes were alive, or the first such moment
};
StageSummary summarize(const Program&, const Layout&, const Timeline&, Seconds step);

// One row per stage, `width` columns for the step: F forward, R recompute, B backward, O optimizer,
// c transfer while compute is idle, '.' nothing.
std::string timeline_rows(const std::vector<Program>&, const Simulation&, int width);

// Bytes alive over time, in `columns` equal slices of the step: the largest of each slice.
std::vector<Bytes> live_bytes(const Program&, const Timeline&, Seconds step, int columns);
// The same as a row of ▁▂▃▄▅▆▇█, relative to `full`.
std::string bars(const std::vector<Bytes>&, Bytes full);

}  // namespace llmplan::cli
