#include "executor/calibrate_pairs.h"

#include <doctest/doctest.h>

#include <algorithm>

#include "costmodel/profiles/profiles.h"
#include "executor/gpu.h"
#include "tests/executor/emulated_device.h"
#include "tests/executor/gpu_programs.h"

using namespace llmplan;

namespace {

// What the made-up cards lose side by side, of OpClass beside OpClass.
constexpr double kSlowdown[4][4] = {{1, 1.5, 1.25, 1.0625}, {1.75, 1, 2, 1.125}, {1.375, 1.1875, 1, 1}, {3, 1.4375, 1, 1}};

// Its own idea of time: nothing of llmplan's cost model.
struct MadeUpClock : TimeModel {
  Seconds time(const Op& op) const override {
    constexpr double seconds[] = {3e-3, 1e-3, 2.5e-3, 7e-4};
    return {seconds[static_cast<int>(class_of(op))]};
  }
  double speed(const Op& op, const std::vector<const Op*>& active) const override {
    double slowdown = 1;
    for (const Op* other : active)
      if (other != &op) slowdown *= kSlowdown[kind(op)][kind(*other)];
    return 1 / slowdown;
  }
  static std::size_t kind(const Op& op) {
    // Transfers have no partner in a simulation of one stage; these stand in for them.
    if (auto* c = std::get_if<Collective>(&op); c && c->kind == Collective::Kind::broadcast) return 3;
    return static_cast<std::size_t>(class_of(op));
  }
};

class MadeUpRank : public GpuRank {
 public:
  explicit MadeUpRank(Bytes arena) : arena_(arena) {}
  Bytes arena() const override { return arena_; }
  Bytes reserve() const override { return {}; }
  std::string bus() const override { return "made up"; }
  void read(Space, Bytes, std::span<std::byte> out) override { std::fill(out.begin(), out.end(), std::byte{0}); }
  void write(Space, Bytes, std::span<const std::byte>) override {}
  Timeline run(const Execution& execution, bool) override {
    std::vector<Program> alone{*execution.program};
    alone[0].stage = 0;
    for (Instr& in : alone[0].instrs)
      if (class_of(in.op) == OpClass::transfer) in.op = Collective{Collective::Kind::broadcast, Axis::dp, {1}, DType::fp32};
    return simulate(alone, MadeUpClock{}).stages[0];
  }
  void cancel() noexcept override {}

 private:
  Bytes arena_;
};

struct MadeUpPeers : GpuPeers {
  void abort(const std::string&) noexcept override {}
};

int cards = 1;
const GpuApi kApi{kGpuApi,
                  [] { return std::vector<GpuInfo>(static_cast<std::size_t>(cards), GpuInfo{"Made up", Bytes{1LL << 36}, Bytes{1LL << 36}, 1, 8, 0, {1e9}, {1e9}, "made up"}); },
                  [] { return std::string("made up"); },
                  [] { return std::string("id"); },
                  [](int, int, int) -> std::shared_ptr<GpuPeers> { return std::make_shared<MadeUpPeers>(); },
                  [](const GpuRankOptions& o) -> std::unique_ptr<GpuRank> { return std::make_unique<MadeUpRank>(o.device_arena); }};
const GpuLibrary kLibrary{&kApi, ""};

Device calibrated(int gpus) {
  cards = gpus;
  use_gpu_library(&kLibrary);
  Strategy all;
  all.dp = gpus;
  CalibrationOptions options;
  options.samples = {{32, 2, 1, 16, 64, 64, 16, 1}};
  const Device d = calibrate(gpu_programs::gpus_for(all), options);
  use_gpu_library(nullptr);
  return d;
}

}  // namespace

TEST_CASE("calibration finds what made-up cards lose when ops run side by side") {
  const Device d = calibrated(2);
  int found = 0;
  for (const Contention& c : d.contention) {
    const double known = kSlowdown[static_cast<int>(c.work)][static_cast<int>(c.beside)];
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
  const MadeUpClock clock;
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
