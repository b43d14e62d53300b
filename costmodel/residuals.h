// How far estimates of comparable runs were off: the interval around a new one, and what of it nobody has
// measured. The runs are rows of validation/residuals.csv (our own errors and features, no source's text).
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "costmodel/estimate.h"

namespace llmplan {

// What makes two runs comparable. The lists are the file's columns, the distance's terms and the envelope's
// axes; a further feature is a further line here and in features_of.
struct WordFeature {
  const char* name;
  double weight;  // distance of two runs that differ in it
};
inline constexpr WordFeature kWords[] = {{"software", 3},    {"runtime", 0.5},   {"device", 1.5},    {"precision", 0.5},
                                         {"optimizer", 0.1}, {"recompute", 0.5}, {"attention", 0.5}, {"schedule", 0.2},
                                         {"zero", 0.5},      {"offload", 1}};
struct NumberFeature {
  const char* name;
  double weight;     // per doubling
  const char* words; // in a sentence
  bool from_below = false;  // less than ever measured is outside, too
};
inline constexpr NumberFeature kNumbers[] = {
    {"parameters", 0.3, "parameters", true}, {"experts", 0.3, "experts"}, {"seq", 0.3, "tokens per sequence", true},
    {"devices", 0.3, "devices"},       {"tp", 0.3, "tensor-parallel ranks"},  {"pp", 0.3, "pipeline stages"},
    {"vpp", 0.1, "chunks per stage"},  {"cp", 0.3, "context-parallel ranks"}, {"ep", 0.3, "expert-parallel ranks"},
    {"micro_batch", 0.1, "sequences per micro-batch"}};
constexpr std::size_t kWordCount = std::size(kWords), kNumberCount = std::size(kNumbers);

struct Features {
  std::array<std::string, kWordCount> words{};
  std::array<double, kNumberCount> numbers{};  // at least 1
};
// `runtime` is a profile's name and `base` the profile that it builds on (Runtime::base): "fsdp2-eager" is a variant
// of fsdp2, but "jax-fsdp", whose name does not begin with its base's, is software of its own.
Features features_of(const ModelConfig&, const Cluster&, const Workload&, const Strategy&, const std::string& runtime,
                     const std::string& base);

struct Residual {
  std::string source;
  Features features;
  // predicted/measured − 1, of the fit that has not seen the source where there is one; NaN: not measured
  double time_error, memory_error;
};
enum class Metric : std::uint8_t { time, memory };

// Held against new cases many times, so words are numbers and numbers logarithms here.
class Residuals {
 public:
  Residuals() = default;
  explicit Residuals(std::vector<Residual>);
  const std::vector<Residual>& rows() const { return rows_; }

  struct Interval {
    double relative = -1;  // 4 of 5 comparable runs lay within [x/(1+r), x·(1+r)]; -1: not known
    std::int64_t rows = 0, sources = 0;
    bool same_software = false;        // all of them ran it
    std::vector<std::string> outside;  // what of the case no validated run covers
    bool known() const { return relative >= 0; }
  };
  // `without`: a source to leave out, for the check that follows.
  Interval interval(const Features&, Metric, const std::string& without = "") const;

  struct Coverage {  // of intervals that were made without the source
    std::string source;
    std::int64_t n = 0;
    double covered = 0, mean_relative = 0;
  };
  std::vector<Coverage> coverage(Metric) const;  // by source, llmplan's own runs left out

 private:
  struct Point {
    std::array<int, kWordCount> words{};
    std::array<float, kNumberCount> logs{};
    int source = 0;
    float time = 0, memory = 0;  // |log(1 + error)|, NaN: not measured
  };
  Point point(const Features&) const;
  int word(const std::string&) const;
  std::vector<std::string> outside(const Features&, const Point&, Metric, int without) const;

  std::vector<Residual> rows_;
  std::vector<Point> points_;
  std::vector<std::string> vocabulary_;  // sorted
};

constexpr double kLevel = 0.8;  // share of runs that an interval is to hold
inline constexpr const char* kOwnSource = "llmplan";  // rows that llmplan itself ran

}  // namespace llmplan
