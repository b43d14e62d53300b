#include "tools/llmplan/overview.h"

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "executor/cpu/kernels.h"

namespace llmplan::cli {

std::string overview() {
  return version_line() + R"(: plan, simulate and run LLM training

  llmplan estimate MODEL        memory, FLOPs, communication and time per strategy
  llmplan tune     MODEL        search strategies, write plan.json
  llmplan run      plan.json    train it on this machine
  llmplan report   DIR          predicted beside measured, for a finished run
  llmplan simulate plan.json    timeline, bubbles and memory of one step
  llmplan explain  plan.json    where every byte and millisecond goes
  llmplan why-not  PLAN tp=3    why a setting is not in the plan

Try it now, nothing to download (about 2 minutes on 2 cores):   llmplan demo
More:  calibrate  checkpoint  data  env  export  hardware  help  models  validate
Every command:  llmplan COMMAND --help   ·   machine-readable:  --json
)";
}

std::string version_line() { return "llmplan " LLMPLAN_VERSION; }

std::string version_json() {
  const nlohmann::ordered_json document = {
      {"schema", "llmplan.version/1"},
      {"version", LLMPLAN_VERSION},
      {"plan_schema", "llmplan.plan/1"},
      {"compiler", __VERSION__},
      {"instruction_set", std::string(cpu::instruction_set())},
  };
  return document.dump(2);
}

}  // namespace llmplan::cli
