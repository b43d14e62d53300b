// estimate --explain: each figure of an estimate as a formula, and the same with the numbers put in.
#pragma once

#include <string>
#include <vector>

#include "costmodel/estimate.h"
#include "tools/llmplan/documents.h"
#include "tools/llmplan/options.h"

namespace llmplan::cli {

struct Formula {
  std::string field;    // its place in estimate --json, "memory.weights"
  double value = 0;     // bytes, seconds, FLOPs, …
  std::string words;    // "2 bytes × (parameters / zero shards)"
  std::string numbers;  // exact: evaluated with + - * / and max() it gives the value
  std::string text;     // numbers, rounded and grouped for a person
};
// Of the stage whose memory peaks. A part that other formulas price (a kernel's time, what one layer keeps) is
// one number here; what a formula leaves out of its field is a term of its own, never silently dropped.
std::vector<Formula> formulas(const Inputs&, const Estimate&);

Json formulas_json(const std::vector<Formula>&);
std::string formulas_text(const std::vector<Formula>&);

}  // namespace llmplan::cli
