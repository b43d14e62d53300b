#include "planner/schedule.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <map>

#include "costmodel/error.h"

using namespace llmplan;
using Pass = Slot::Pass;

TEST_CASE("every schedule runs each micro-batch forward once, then backward once, backwards in order") {
  for (Schedule schedule : {Schedule::gpipe, Schedule::one_f_one_b})
    for (int stages : {1, 2, 3, 5, 8})
      for (int stage = 0; stage < stages; ++stage)
        for (std::int64_t m : {1, 2, 3, 4, 7, 16}) {
          std::map<std::int32_t, int> forward_at, backward_at;
          const auto order = compute_order(schedule, stage, stages, m);
          std::int32_t next_backward = 0;
          for (int i = 0; i < static_cast<int>(order.size()); ++i) {
            auto& at = order[i].pass == Pass::forward ? forward_at : backward_at;
            CHECK(at.emplace(order[i].micro_batch, i).second);
            if (order[i].pass == Pass::backward) CHECK(order[i].micro_batch == next_backward++);
          }
          CHECK(static_cast<std::int64_t>(forward_at.size()) == m);
          CHECK(static_cast<std::int64_t>(backward_at.size()) == m);
          for (auto [micro_batch, at] : forward_at) CHECK(at < backward_at.at(micro_batch));
        }
}

TEST_CASE("1F1B holds min(stages − stage, m) micro-batches in flight, GPipe all of them") {
  for (int stages : {1, 2, 4, 16})
    for (int stage = 0; stage < stages; ++stage)
      for (std::int64_t m : {1, 2, 4, 5, 32}) {
        const auto most = [&](Schedule schedule) {
          std::int64_t now = 0, peak = 0;
          for (const Slot& s : compute_order(schedule, stage, stages, m))
            peak = std::max(peak, now += s.pass == Pass::forward ? 1 : -1);
          return peak;
        };
        CHECK(most(Schedule::one_f_one_b) == std::min<std::int64_t>(stages - stage, m));
        CHECK(most(Schedule::gpipe) == m);
      }
}

TEST_CASE("1F1B's first stage of two warms up with one forward") {
  CHECK(compute_order_text(compute_order(Schedule::one_f_one_b, 0, 2, 3)) == "F0 F1 B0 F2 B1 B2");
  CHECK(compute_order_text(compute_order(Schedule::one_f_one_b, 1, 2, 3)) == "F0 B0 F1 B1 F2 B2");
  CHECK(compute_order_text(compute_order(Schedule::gpipe, 1, 2, 2)) == "F0 F1 B0 B1");
}

TEST_CASE("a schedule that cannot be lowered is refused by name") {
  CHECK_THROWS_WITH_AS(compute_order(Schedule::interleaved, 0, 2, 4),
                       "the schedule interleaved can be estimated but not yet lowered to a program", Error);
}
