// The strategies that tests of equality go through.
#pragma once

#include <vector>

#include "costmodel/strategy.h"

namespace llmplan {

// Everything legal with up to 8 ranks on the tiny model. Gradients go in one bucket, in one per layer and in some of more layers,
// in turn.
inline std::vector<Strategy> grid() {
  std::vector<Strategy> out;
  for (std::int64_t tp : {1, 2, 4})
    for (std::int64_t dp : {1, 2, 4, 8})
      for (std::int64_t pp : {1, 2, 3, 4})
        for (bool sp : {false, true})
          for (int zero : {0, 1})
            for (std::int64_t mb : {1, 2, 8})
              for (Recompute recompute : {Recompute::none, Recompute::full})
                for (Schedule schedule : {Schedule::one_f_one_b, Schedule::gpipe})
                  for (bool uneven : {false, true}) {
                    if (tp * dp * pp > 8 || (sp && tp == 1) || (zero && dp == 1) || 8 % (dp * mb) != 0) continue;
                    if (pp == 1 && (schedule == Schedule::gpipe || uneven)) continue;
                    Strategy s;
                    s.tp = tp, s.dp = dp, s.pp = pp, s.sp = sp, s.zero = zero, s.micro_batch = mb;
                    s.recompute = recompute, s.schedule = schedule;
                    if (uneven && pp == 2) s.layers_per_stage = {1, 3};
                    if (uneven && pp == 3) s.layers_per_stage = {1, 1, 2};
                    if (uneven && pp == 4) continue;
                    constexpr std::int64_t kBuckets[] = {1, 25'000, 0};  // a layer has 20,160 elements
                    if (dp > 1) s.grad_bucket = kBuckets[out.size() % 3];
                    out.push_back(s);
                  }
  return out;
}

}  // namespace llmplan
