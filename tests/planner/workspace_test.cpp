// The workspace of attention's gradient lies where the MLP's activations were: it must not raise the peak of any plan.
#include <doctest/doctest.h>

#include <algorithm>

#include "costmodel/profiles/profiles.h"
#include "planner/layout.h"
#include "planner/lower.h"
#include "planner/overlap.h"

using namespace llmplan;

namespace {

bool is_workspace(const Buffer& b) { return b.name.find("attn_workspace") != std::string::npos; }

// The same program with workspaces of other sizes.
template <class F>
Program resized(Program p, F size_of_one) {
  for (Buffer& b : p.buffers)
    if (is_workspace(b)) b.size = size_of_one(b.size);
  for (Instr& in : p.instrs)
    for (Ref& r : in.writes)
      if (const Buffer& b = p.buffers[static_cast<std::size_t>(r.buffer)]; is_workspace(b)) r.size = b.size;
  return p;
}

}  // namespace

TEST_CASE("the workspace of a library's attention raises no plan's peak") {
  int larger_ones_would = 0;
  double largest = 0;  // of what the layout of the arena adds, which is not perfect
  for (const char* model : {"llama-3.2-1b", "llama-3.1-8b", "llama-2-7b", "qwen3-0.6b"})
    for (DType precision : {DType::bf16, DType::fp16, DType::fp8_e4m3})
      for (int variant = 0; variant < 5; ++variant) {
        Plan plan;
        plan.model = read_model(model);
        plan.model.num_hidden_layers = 12;  // so that layers, not the loss, make the peak
        plan.cluster = read_cluster("8xh100-80g-sxm");
        plan.workload.seq = 2048;
        plan.workload.global_batch = 32;
        plan.workload.precision = precision;
        Strategy& s = plan.strategy;
        s.dp = 8, s.micro_batch = 4;
        if (variant == 1) s.tp = 2, s.dp = 4;
        if (variant == 2) s.tp = 2, s.dp = 4, s.sp = true;
        if (variant == 3) s.recompute = Recompute::full;
        if (variant == 4) s.pp = 2, s.dp = 4;
        if (!why_not_lowerable(plan).constraint.empty()) continue;
        for (Program p : lower(plan)) {
          INFO(model, " in ", name_of(precision), ", variant ", variant, ", stage ", p.stage);
          overlap(p);
          Program small = resized(p, [](Bytes) { return Bytes{kAlign}; }), large = resized(p, [](Bytes b) { return Bytes{3 * b.value}; });
          const Layout with = place(p), plain = place(small);
          larger_ones_would += place(large).live_peak.value > with.live_peak.value;
          CHECK(std::any_of(p.buffers.begin(), p.buffers.end(), is_workspace));
          CHECK(with.live_peak.value <= plain.live_peak.value);
          largest = std::max(largest, static_cast<double>(with.device_arena.value) / static_cast<double>(plain.device_arena.value) - 1);
        }
      }
  MESSAGE("largest growth of an arena: ", 100 * largest, " %");
  CHECK(largest < 0.02);
  CHECK(larger_ones_would > 0);
}
