// Plans in and out of files, with what the command line adds: where to look, and whether it still fits.
#pragma once

#include <string>

#include "planner/plan.h"

namespace llmplan::cli {

Plan read_plan(const std::string& path);
void write_plan(const std::string& path, const Plan&);
// A file of the user's naming: atomically, except into devices and pipes (-o /dev/stdout).
void write_output(const std::string& path, const std::string& text);
std::string plan_line(const Plan&);  // "tiny-9m · dp2 mbs4 · seq 512 · 16 sequences/step · local"

}  // namespace llmplan::cli
