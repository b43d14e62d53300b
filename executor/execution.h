// What one execution of a program needs beside the program.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <span>

#include "executor/backend.h"
#include "planner/program.h"

namespace llmplan {

// Gives the `seq` ids and targets of sample `i` of the step's global batch. Called from all ranks at once.
using SampleSource =
    std::function<void(std::int64_t i, std::span<std::int32_t> ids, std::span<std::int32_t> targets)>;

struct Execution {
  const Program* program = nullptr;
  const Layout* layout = nullptr;
  StepScalars step;
  const SampleSource* samples = nullptr;
  std::int64_t samples_per_micro_batch = 1, samples_per_rank = 1;  // of this step
  std::chrono::steady_clock::time_point start;                     // zero of the timeline
};

}  // namespace llmplan
