// runtimes/*.yaml: how the software that is modelled behaves.
#pragma once

#include <string>
#include <variant>
#include <vector>

#include "costmodel/runtime.h"

namespace llmplan {

std::vector<std::string> runtime_names();   // sorted
// A name, or a path to a YAML file. `base: NAME` takes another runtime's constants where it states none.
Runtime read_runtime(const std::string& name_or_path);
Runtime parse_runtime(const std::string& yaml, const std::string& file);

// The keys of a runtime file and the members they fill: one list for reading, writing and fitting.
struct RuntimeField {
  using Member = std::variant<std::string Runtime::*, bool Runtime::*, double Runtime::*, std::int64_t Runtime::*,
                              Seconds Runtime::*, Bytes Runtime::*, Selective Runtime::*, ContextParallel Runtime::*>;
  const char* key;
  Member member;
};
const std::vector<RuntimeField>& runtime_fields();
std::string to_yaml(const Runtime&);

}  // namespace llmplan
