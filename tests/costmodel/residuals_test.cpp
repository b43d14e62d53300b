// Intervals and the envelope, on rows whose answers are known, and on the rows that ship.
#include "costmodel/residuals.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>

#include "costmodel/error.h"
#include "costmodel/profiles/profiles.h"
#include "costmodel/profiles/residual_file.h"

namespace llmplan {
namespace {

const double kNone = std::nan("");

Features run(const std::string& runtime, const std::string& device, double devices = 8, double seq = 2048) {
  Features f;
  f.words = {runtime, runtime, device, "bf16", "adamw", "none", "flash", "none", "1", "none"};
  f.numbers = {7e9, 1, seq, devices, 1, 1, 1, 1, 1, 1};
  return f;
}

std::vector<Residual> rows(const std::string& source, const std::string& runtime, const std::string& device, std::vector<double> errors) {
  std::vector<Residual> out;
  for (double e : errors) out.push_back({source, run(runtime, device), e, kNone});
  return out;
}

TEST_CASE("the interval is the ceil((n+1)0.8)-th smallest error of the comparable runs") {
  const Residuals r(rows("s", "mega", "h100", {0.01, -0.02, 0.03, 0.04, 0.05, 0.06, 0.07, 0.08, 0.30}));
  const auto i = r.interval(run("mega", "h100"), Metric::time);
  // n = 9: the 8th smallest, which is 0.08; errors below zero count by their logarithm, 1/0.98 − 1 = 0.0204.
  CHECK(i.relative == doctest::Approx(0.08).epsilon(1e-6));
  CHECK(i.rows == 9);
  CHECK(i.sources == 1);
  CHECK(i.same_software);
  CHECK(i.outside.empty());
  CHECK_FALSE(r.interval(run("mega", "h100"), Metric::memory).known());
}

TEST_CASE("a handful of runs gives a wider interval than their largest error") {
  const Residuals r(rows("s", "mega", "h100", {0.01, 0.02, 0.10}));
  CHECK(r.interval(run("mega", "h100"), Metric::time).relative == doctest::Approx(std::pow(1.1, 1.5) - 1).epsilon(1e-6));
}

TEST_CASE("runs of the same software come before runs of another, near ones before far ones") {
  std::vector<Residual> all = rows("a", "mega", "h100", std::vector<double>(60, 0.02));
  for (const char* source : {"b", "c", "d", "e"})
    for (Residual& x : rows(source, "mega", "h100", std::vector<double>(20, 0.03))) all.push_back(x);
  for (Residual& x : rows("f", "other", "h100", std::vector<double>(100, 0.5))) all.push_back(x);
  const Residuals r(all);
  const auto i = r.interval(run("mega", "h100"), Metric::time);
  CHECK(i.rows == 60);
  CHECK(i.sources == 3);  // at most twenty of one source
  CHECK(i.relative == doctest::Approx(0.03).epsilon(1e-6));
  CHECK(r.interval(run("other", "h100"), Metric::time).relative == doctest::Approx(0.5).epsilon(1e-6));
}

TEST_CASE("a case outside of what was measured says which feature is") {
  std::vector<Residual> all = rows("s", "mega", "h100", std::vector<double>(10, 0.02));
  all.push_back({"s", run("mega", "h100", 1024, 8192), 0.02, 0.01});
  const Residuals r(all);
  const auto outside = [&](const Features& f, Metric m = Metric::time) { return r.interval(f, m).outside; };
  CHECK(outside(run("mega", "h100", 64)).empty());
  CHECK(outside(run("other", "h100")) == std::vector<std::string>{"no validated run of other"});
  CHECK(outside(run("mega", "b200")) == std::vector<std::string>{"no validated run of mega on b200"});
  CHECK(outside(run("mega", "h100", 4096)) == std::vector<std::string>{"4096 devices; validated up to 1024"});
  CHECK(outside(run("mega", "h100", 8, 512)) == std::vector<std::string>{"512 tokens per sequence; validated from 2048"});
  Features full = run("mega", "h100");
  full.words[5] = "full";
  CHECK(outside(full) == std::vector<std::string>{"no validated run of mega with recompute full"});
  CHECK(outside(run("mega", "h100", 8), Metric::memory).size() == 1);  // only the run of 8192 tokens has a memory
}

TEST_CASE("runs of a variant are runs of the software, a little further away") {
  std::vector<Residual> all = rows("a", "mega", "h100", std::vector<double>(60, 0.02));
  for (Residual& x : rows("b", "mega", "h100", std::vector<double>(60, 0.2))) {
    x.features.words[1] = "mega-eager";
    all.push_back(x);
  }
  const Residuals r(all);
  const auto i = r.interval(run("mega", "h100"), Metric::time);
  CHECK(i.rows == 40);
  CHECK(i.same_software);
  CHECK(i.outside.empty());
}

TEST_CASE("llmplan's own program rests on its own runs only") {
  std::vector<Residual> all = rows("s", "mega", "local-cpu", std::vector<double>(10, 0.5));
  for (Residual& x : rows(kOwnSource, kOwnSource, "local-cpu", {0.01, 0.02, 0.03, 0.04})) all.push_back(x);
  const Residuals r(all);
  CHECK(r.interval(run(kOwnSource, "local-cpu"), Metric::time).relative == doctest::Approx(0.04).epsilon(1e-6));
  CHECK_FALSE(r.interval(run(kOwnSource, "h100"), Metric::time).known());
  CHECK(r.interval(run("mega", "local-cpu"), Metric::time).relative == doctest::Approx(0.5).epsilon(1e-6));
}

TEST_CASE("the table of residuals reads back as it was written, and a damaged one is refused with its line") {
  std::vector<Residual> all = rows("s", "mega", "h100", {0.25, -0.125});
  all.push_back({"t", run("other", "b200"), kNone, 0.5});
  const auto back = parse_residuals(to_csv(all), "r.csv");
  REQUIRE(back.size() == 3);
  for (std::size_t i = 0; i < 3; ++i) {
    CHECK(back[i].source == all[i].source);
    CHECK(back[i].features.words == all[i].features.words);
    CHECK(back[i].features.numbers == all[i].features.numbers);
  }
  CHECK(back[1].time_error == -0.125);
  CHECK(std::isnan(back[1].memory_error));
  CHECK(back[2].memory_error == 0.5);
  const auto line_of = [](const std::string& text) {
    try {
      parse_residuals(text, "r.csv");
    } catch (const Error& e) {
      return e.code == "E0133" ? e.location.line : -1;
    }
    return 0;
  };
  const std::string text = to_csv(all);
  CHECK(line_of("a,b\n") == 1);
  CHECK(line_of(text + "x,y\n") == 5);
  CHECK(line_of(text.substr(0, text.find("0.2500")) + "much,\n") == 2);
}

TEST_CASE("80 % intervals of the shipped residuals, made without a source, hold 65 to 95 % of its runs on average") {
  const Residuals r = read_residuals();
  REQUIRE(r.rows().size() > 1000);
  double covered = 0, runs = 0, held = 0, n = 0;
  for (const auto& c : r.coverage(Metric::time)) {
    MESSAGE(c.source << ": " << 100 * c.covered << " % of " << c.n << " runs, half-width " << 100 * c.mean_relative << " %");
    covered += c.covered, ++n;
    held += c.covered * static_cast<double>(c.n), runs += static_cast<double>(c.n);
  }
  REQUIRE(n >= 10);
  CHECK(covered / n >= 0.65);
  CHECK(covered / n <= 0.95);
  CHECK(held / runs >= 0.6);  // of all runs, most of which one source gives
}

TEST_CASE("80 % intervals of memory, made without a source, hold most of its runs") {
  double covered = 0, n = 0;
  for (const auto& c : read_residuals().coverage(Metric::memory)) {
    if (c.n < 10) continue;  // says nothing about a share
    MESSAGE(c.source << ": " << 100 * c.covered << " % of " << c.n << " runs, half-width " << 100 * c.mean_relative << " %");
    covered += c.covered, ++n;
  }
  REQUIRE(n >= 4);
  CHECK(covered / n >= 0.65);  // no upper end: there are half a dozen sources
}

TEST_CASE("the features of a shipped row and of the same case priced anew are the same words") {
  // What features_of writes must be what the file holds, or nothing would ever be comparable.
  const Residuals r = read_residuals();
  const ModelConfig m = read_model("llama-3.1-8b");
  const Cluster c = read_cluster("8xh100-80g-sxm");
  Workload w;
  w.seq = 8192, w.global_batch = 128;
  Strategy s;
  s.dp = 8, s.zero = 3;
  const Features f = features_of(m, c, w, s, "fsdp1", "");
  CHECK(features_of(m, c, w, s, "fsdp2-eager", "fsdp2").words[0] == "fsdp2");
  CHECK(features_of(m, c, w, s, "jax-fsdp", "fsdp2").words[0] == "jax-fsdp");
  const auto i = r.interval(f, Metric::time);
  CHECK(i.known());
  CHECK(i.rows >= 20);
  CHECK(std::ranges::any_of(r.rows(), [&](const Residual& x) { return x.features.words == f.words; }));
}

}  // namespace
}  // namespace llmplan
