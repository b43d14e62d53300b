#include "executor/calibrate_pairs.h"

#include <doctest/doctest.h>

#include "costmodel/profiles/profiles.h"
#include "tests/executor/emulated_device.h"
#include "tests/executor/gpu_programs.h"
#include "tests/executor/made_up_gpus.h"

using namespace llmplan;

namespace {

Device calibrated(int gpus) {
  const test::MadeUpGpus machine(gpus);
  Strategy all;
  all.dp = gpus;
  CalibrationOptions options;
  options.samples = {{32, 2, 1, 16, 64, 64, 16, 1}};
  return calibrate(gpu_programs::gpus_for(all), options);
}

}  // namespace

TEST_CASE("calibration finds what made-up cards lose when ops run side by side") {
  const Device d = calibrated(2);
  int found = 0;
  for (const Contention& c : d.contention) {
    const double known = test::kSlowdown[static_cast<int>(c.work)][static_cast<int>(c.beside)];
    CHECK_MESSAGE(c.slowdown == doctest::Approx(known).epsilon(1e-9), name_of(c.work), " beside ", name_of(c.beside));
    ++found;
  }
  CHECK(found == 10);  // matrix and pointwise work beside each other, a collective and a transfer, and the other way round
}

TEST_CASE("one card has nobody to talk to: calibration pairs a product with pointwise work alone") {
  const Device d = calibrated(1);
  REQUIRE(d.contention.size() == 2);
  CHECK(d.contention[0].slowdown == doctest::Approx(1.5).epsilon(1e-9));
  CHECK(d.contention[1].slowdown == doctest::Approx(1.75).epsilon(1e-9));
}

TEST_CASE("an op that was only measured beside another is calibrated as if alone") {
  const Device d = calibrated(2);
  const test::MadeUpClock clock;
  for (const MeasuredOp& m : d.measured)
    if (!std::holds_alternative<Send>(m.op) && !std::holds_alternative<Recv>(m.op))
      CHECK_MESSAGE(m.time.value == doctest::Approx(clock.time(m.op).value).epsilon(1e-6), kind_of(m.op));
}

TEST_CASE("pairs of ops run on the emulated card as any program does") {
  cuda::test::EmulatedMachine machine;
  PairTimes times;
  Strategy one;
  measure_pairs(gpu_programs::gpus_for(one), {32, 2, 1, 16, 64, 64, 16, 1}, nullptr, times);
  CHECK(machine.count("product") == 4 * 32);
  for (const Contention& c : times.result()) CHECK(c.slowdown >= 1);
}
