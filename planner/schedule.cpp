#include "planner/schedule.h"

#include <algorithm>

#include "costmodel/error.h"

namespace llmplan {
namespace {

using Pass = Slot::Pass;

// GPipe (Huang et al. 2019): all forwards, then all backwards. Backwards go in the order of the
// micro-batches, as in 1F1B, so that both schedules sum gradients in the same order.
std::vector<Slot> gpipe(std::int64_t micro_batches) {
  std::vector<Slot> order;
  order.reserve(2 * micro_batches);
  for (Pass pass : {Pass::forward, Pass::backward})
    for (std::int32_t i = 0; i < micro_batches; ++i) order.push_back({pass, i});
  return order;
}

// Narayanan et al. 2021, "PipeDream-Flush": stages − stage − 1 forwards to warm up, then one forward
// and one backward in turn, then the backwards that are left.
std::vector<Slot> one_f_one_b(int stage, int stages, std::int64_t micro_batches) {
  const auto m = static_cast<std::int32_t>(micro_batches);
  const auto warmup = std::min<std::int32_t>(stages - stage - 1, m);
  std::vector<Slot> order;
  order.reserve(2 * micro_batches);
  for (std::int32_t i = 0; i < warmup; ++i) order.push_back({Pass::forward, i});
  for (std::int32_t i = warmup; i < m; ++i) {
    order.push_back({Pass::forward, i});
    order.push_back({Pass::backward, i - warmup});
  }
  for (std::int32_t i = m - warmup; i < m; ++i) order.push_back({Pass::backward, i});
  return order;
}

}  // namespace

std::vector<Slot> compute_order(Schedule schedule, int stage, int stages, std::int64_t micro_batches) {
  switch (schedule) {
    case Schedule::gpipe: return gpipe(micro_batches);
    case Schedule::one_f_one_b: return one_f_one_b(stage, stages, micro_batches);
    case Schedule::interleaved:
    case Schedule::zb_h1: break;
  }
  throw Error("E0305", Exit::usage,
              "the schedule " + std::string(name_of(schedule)) + " can be estimated but not yet lowered to a program",
              "use --schedule 1f1b or --schedule gpipe");
}

std::string compute_order_text(const std::vector<Slot>& order) {
  std::string text;
  for (const Slot& slot : order) {
    if (!text.empty()) text += ' ';
    text += slot.pass == Pass::forward ? 'F' : 'B';
    text += std::to_string(slot.micro_batch);
  }
  return text;
}

}  // namespace llmplan
