// What a report says of how ranks were placed.
#include "executor/rank_setup.h"

#include <doctest/doctest.h>

#include "tests/executor/emulated_device.h"
#include "tests/executor/gpu_programs.h"
#include "tests/executor/made_up_gpus.h"

using namespace llmplan;

namespace {

Strategy four() {
  Strategy s;
  s.dp = s.tp = 2;
  return s;
}

}  // namespace

TEST_CASE("ranks that share one GPU are said to, and that their speed is not that of as many cards") {
  cuda::test::EmulatedMachine machine;
  const Ranks ranks(gpu_programs::gpu_plan(four()));
  const RankSetup s = ranks.setup();
  CHECK(s == RankSetup{4, "shared card", "Emulated", false, 1, 4});
  CHECK(describe(s) == "4 ranks by copies inside the card on one Emulated");
  CHECK(caution(s).find("not that of 4 cards") != std::string::npos);
}

TEST_CASE("ranks with a GPU each talk over NCCL, and there is nothing to warn of") {
  const test::MadeUpGpus machine(4);
  const Ranks ranks(gpu_programs::gpu_plan(four()));
  CHECK(ranks.setup() == RankSetup{4, "nccl", "Made-up GPU", false, 4, 4});
  CHECK(describe(ranks.setup()) == "4 ranks over NCCL on 4 GPUs (Made-up GPU)");
  CHECK(caution(ranks.setup()).empty());
  const Ranks one(gpu_programs::gpu_plan({}));
  CHECK(one.setup() == RankSetup{1, "none", "Made-up GPU", false, 1, 1});
}

TEST_CASE("fewer GPUs than ranks means one GPU for all") {
  const test::MadeUpGpus machine(3);
  const Ranks ranks(gpu_programs::gpu_plan(four()));
  CHECK(ranks.setup() == RankSetup{4, "shared card", "Made-up GPU", false, 1, 4});
}

TEST_CASE("ranks on cores name the processor, and those that take turns say so") {
  const Ranks ranks(tiny_plan(four()));
  RankSetup s = ranks.setup();
  CHECK(s.communicator == "threads");
  CHECK(s.ranks == 4);
  CHECK(s.ranks_on_devices == 4);
  CHECK(s.device == cpu_name());
  s.devices = 2;
  CHECK(describe(s) == "4 ranks as threads on 2 cores (" + s.device + ")");
  CHECK(caution(s).find("take turns on 2 cores") != std::string::npos);
  s.devices = 4;
  CHECK(caution(s).empty());
  s = {16, "mpi", "CPU", true, 8, 4};
  CHECK(describe(s) == "16 ranks over MPI, through host memory, 4 of them on this machine, on 8 cores (CPU)");
  CHECK(caution(s).empty());
}
