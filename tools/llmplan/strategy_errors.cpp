#include "tools/llmplan/strategy_errors.h"

namespace llmplan::cli {
namespace {

struct Code { const char* constraint; const char* code; };
constexpr Code kCodes[] = {{"heads", "E0312"}, {"kv_heads", "E0312"}, {"ffn", "E0312"},
                           {"batch", "E0110"}, {"devices", "E0311"}};

}  // namespace

Error to_error(const Infeasible& why) {
  const char* code = "E0304";
  for (const Code& c : kCodes)
    if (why.constraint == c.constraint) code = c.code;
  return Error(code, Exit::usage, why.reason,
               why.hint.empty() ? "llmplan tune finds the strategies that are possible" : why.hint);
}

Error does_not_fit(const Estimate& e) {
  return Error("E0302", Exit::nothing_fits, "this strategy does not fit: " + e.reason,
               "try --recompute full, --zero 1 (with --dp above 1), more of --tp or --pp, or a shorter "
               "--seq;\nllmplan tune searches all of them");
}

}  // namespace llmplan::cli
