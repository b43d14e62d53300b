// Against transformers on PyTorch: tests/executor/golden, made by tools/golden/make_golden.py.
#include "tests/executor/golden.h"

namespace llmplan {
namespace {

TEST_CASE("Losses, gradients and weights after five AdamW steps are PyTorch's") {
  for (const char* name : {"gqa_untied", "gqa_tied_llama3_rope", "gpu_head64"}) {
    Golden golden(name);
    Strategy one, accumulate, split, recompute;
    one.micro_batch = 4;
    accumulate.micro_batch = 1;
    split.tp = split.pp = split.dp = 2, split.sp = true, split.zero = 1, split.grad_bucket = 1;
    recompute.micro_batch = 2, recompute.recompute = Recompute::full;
    for (const Strategy& s : {one, accumulate, split, recompute}) check_against(golden, s);
  }
}

TEST_CASE("In bf16, gradients are no further from the truth than 1.5 times PyTorch's in bf16") {
  for (const char* name : {"gqa_untied", "gqa_tied_llama3_rope", "gpu_head64"}) {
    Golden golden(name);
    Strategy one, split;
    one.micro_batch = 4;
    split.tp = split.pp = 2, split.sp = true, split.micro_batch = 2;
    for (const Strategy& s : {one, split}) check_bf16_against(golden, s);
  }
}

}  // namespace
}  // namespace llmplan
