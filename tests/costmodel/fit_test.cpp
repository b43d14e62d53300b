// Constants that made some measurements are found again from these measurements.
#include "costmodel/fit.h"

#include <doctest/doctest.h>

#include <cmath>

#include "costmodel/profiles/case_file.h"

namespace llmplan {
namespace {

// Runs of several sizes "measured" by the model itself, on a device whose GEMMs and a runtime whose overheads
// differ from the profiles.
std::vector<Case> synthetic(const ValidationData& data, double gemm_factor, double step_overhead) {
  std::vector<Case> cases;
  for (std::int64_t hidden : {1024, 4096, 8192})
    for (std::int64_t micro_batch : {1, 4})
      for (std::int64_t global_batch : {64, 512}) {
        Case c;
        c.id = std::to_string(cases.size());
        c.source = micro_batch == 1 ? "one" : "two";
        c.runtime = "megatron-lm-2021", c.device = "a100-80g-sxm", c.outcome = "ok";
        c.layers = 24, c.hidden = hidden, c.heads = hidden / 128, c.ffn = 4 * hidden, c.mlp = "gelu", c.vocab = 51200;
        c.seq = 2048, c.n_devices = 8, c.devices_per_node = 8, c.tp = 8, c.pp = 1, c.zero = 0;
        c.global_batch = global_batch, c.micro_batch = micro_batch, c.recompute = "full", c.attention = "unfused";
        Setup s = std::get<Setup>(set_up(c, data));
        for (auto& [x, y] : s.cluster.device.gemm_efficiency.points) y *= gemm_factor;
        s.runtime.step_overhead.value = step_overhead;
        c.step_time_s = std::get<Estimate>(estimate(s)).time.step.value;
        cases.push_back(c);
      }
  return cases;
}

double after(const Fit& f, const std::string& name) {
  for (const Constant& c : f.constants)
    if (c.name == name) return c.after;
  return NAN;
}

TEST_CASE("constants that made the measurements are found again") {
  const ValidationData data = validation_data();
  const double truth = 0.8 * [&] {
    double top = 0;
    for (const auto& [x, y] : data.cluster("a100-80g-sxm", 1, 8).device.gemm_efficiency.points) top = std::max(top, y);
    return top;
  }();
  const Fit f = fit(synthetic(data, 0.8, 0.5), data);
  for (const FitError& e : f.errors) {
    CAPTURE(e.source);
    CHECK(e.before > 0.05);
    CHECK(e.after < 0.01);
    CHECK(e.left_out < 0.05);  // either half of the rows informs the same constants
  }
  // Not to the last digit: several constants trade against each other, and each is pulled to where it was.
  CHECK(after(f, "gemm_efficiency") == doctest::Approx(truth).epsilon(0.05));
  CHECK(after(f, "step_overhead") > 0.05);
}

TEST_CASE("measurements that the model already predicts move nothing") {
  const ValidationData data = validation_data();
  const double overhead = data.runtime("megatron-lm-2021").step_overhead.value;
  const Fit f = fit(synthetic(data, 1, overhead), data, false);
  for (const Constant& c : f.constants) {
    CAPTURE(c.name);
    CHECK(c.after == doctest::Approx(c.before).epsilon(1e-6));
  }
}

TEST_CASE("a constant that no row feels is not fitted") {
  const ValidationData data = validation_data();
  const Fit f = fit(synthetic(data, 0.9, 0.01), data, false);
  for (const Constant& c : f.constants) {
    CHECK(c.name != "cp_overlap");  // nothing runs with cp > 1, experts or pipelines
    CHECK(c.name != "ep_overlap");
    CHECK(c.name != "pp_overlap");
  }
}

}  // namespace
}  // namespace llmplan
