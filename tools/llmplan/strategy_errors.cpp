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

}  // namespace llmplan::cli
