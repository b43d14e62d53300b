#include "executor/calibrate.h"

#include <doctest/doctest.h>

#include <set>

#include "costmodel/error.h"
#include "costmodel/estimate.h"
#include "costmodel/profiles/profiles.h"

using namespace llmplan;

TEST_CASE("a short calibration times every kind of compute op, and the cost model returns what was measured") {
  const Cluster local = local_cluster();
  CalibrationOptions options;
  options.seconds = 0.05;  // one model, one way to spread it
  std::vector<std::string> parts;
  options.progress = [&](const std::string& part, double fraction) {
    parts.push_back(part);
    CHECK(fraction >= 0);
    CHECK(fraction <= 1);
  };
  const Device d = calibrate(local, options);
  CHECK(!parts.empty());
  CHECK(d.cpu);
  CHECK(d.cores == local.device.cores);
  std::set<std::string_view> kinds;
  for (const MeasuredOp& m : d.measured) {
    kinds.insert(kind_of(m.op));
    CHECK(m.time.value > 0);
    CHECK(m.time.value < 10);
    if (!is_transfer(m.op)) CHECK(op_time(m.op, d, m.ranks, m.threads) == m.time);
  }
  for (const char* kind : {"gemm", "embedding", "embedding_grad", "rms_norm", "rms_norm_grad", "rope", "attention", "attention_grad",
                           "swiglu", "swiglu_grad", "cross_entropy_stats", "cross_entropy_grad", "grad_stats", "adamw"})
    CHECK_MESSAGE(kinds.contains(kind), kind);
  // The peak is the best that any measured GEMM reached per core.
  REQUIRE(d.peak.contains(DType::fp32));
  double best = 0;
  for (const MeasuredOp& m : d.measured)
    if (std::holds_alternative<Gemm>(m.op))
      best = std::max(best, m.ranks * flops(m.op).value / m.time.value / std::min(m.ranks * m.threads, d.cores));
  CHECK(d.peak.at(DType::fp32).value == doctest::Approx(best).epsilon(1e-12));
  CHECK(d.memory_bandwidth.value > 0);
}

TEST_CASE("a calibration that is told to stop writes nothing and says so") {
  const std::atomic<int> stop = 1;
  CalibrationOptions options;
  options.stop = &stop;
  try {
    calibrate(local_cluster(), options);
    FAIL("was not stopped");
  } catch (const Error& e) {
    CHECK(e.code == "E0602");
  }
}
