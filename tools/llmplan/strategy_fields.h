// The fields of a strategy by name: one list for flags (--micro-batch 4), for `why-not micro_batch=4` and
// for the strategy object of every JSON document.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "costmodel/strategy.h"

namespace llmplan::cli {

struct StrategyField {
  std::string name;    // "micro_batch"; the flag is --micro-batch
  std::string values;  // for the help
  std::string help;
  // Throws Error E0121 that names `flag` when the value is not one of `values`.
  void (*set)(Strategy&, const std::string& flag, const std::string& value);
  nlohmann::ordered_json (*get)(const Strategy&);
  std::string flag() const;
};
std::span<const StrategyField> strategy_fields();
const StrategyField* find_field(const std::string& name);  // accepts '-' for '_'; null: no such field

// The strategy object of INTERFACE: the fields, and the workload's precision and optimizer.
nlohmann::ordered_json strategy_json(const Strategy&, const Workload&);

// Strict readers of one value: no sign, blank, leading zero or trailing text. Throw E0121 naming the flag.
std::int64_t read_integer(const std::string& flag, const std::string& text, std::int64_t low,
                          std::int64_t high);
std::int64_t read_count(const std::string& flag, const std::string& text);  // also 100B, 1.5M; above 0
double read_real(const std::string& flag, const std::string& text, double low, double high);
std::vector<std::string> split(const std::string& text, char separator = ',');

bool read_switch(const std::string& flag, const std::string& text);  // on or off
DType read_precision(const std::string& flag, const std::string& text);
OptimizerKind read_optimizer(const std::string& flag, const std::string& text);
std::string precision_name(DType);

}  // namespace llmplan::cli
