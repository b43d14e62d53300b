#include "costmodel/profiles/residual_file.h"

#include <charconv>
#include <cmath>
#include <filesystem>
#include <map>

#include <fmt/format.h>

#include "costmodel/profiles/node.h"
#include "costmodel/profiles/profiles.h"

namespace llmplan {
namespace {

constexpr std::size_t kColumns = 1 + kWordCount + kNumberCount + 2;

std::string header() {
  std::string line = "source";
  for (const WordFeature& f : kWords) line += std::string(",") + f.name;
  for (const NumberFeature& f : kNumbers) line += std::string(",") + f.name;
  return line + ",time_error,memory_error";
}

[[noreturn]] void damaged(const std::string& file, int line, const std::string& what) {
  throw Error("E0133", Exit::usage, what, "write the file again: tools/accuracy CASES.csv...", {file, line, 0, "", 1});
}

double number(const std::string& text, const std::string& file, int line) {
  double value = std::nan("");
  if (text.empty()) return value;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc{} || end != text.data() + text.size() || !std::isfinite(value))
    damaged(file, line, fmt::format("'{}' is not a number", text));
  return value;
}

}  // namespace

std::vector<Residual> residuals_of(const std::vector<Case>& cases, const ValidationData& data, const std::vector<LeftOut>& left_out) {
  std::map<std::pair<std::string, std::string>, double> unseen;
  for (const LeftOut& l : left_out) unseen[{l.source, l.id}] = l.error;
  std::vector<Residual> out;
  for (const Case& c : cases) {
    Residual r{c.source, {}, std::nan(""), std::nan("")};
    for (const Comparison& x : compare(c, data)) {
      if (x.skipped || !x.headline || x.error <= -1) continue;
      if (x.metric == "step_time") {
        const auto found = unseen.find({c.source, c.id});
        r.time_error = found == unseen.end() ? x.error : found->second;
      } else if (x.metric == "peak_memory") {
        r.memory_error = x.error;
      }
    }
    if (std::isnan(r.time_error) && std::isnan(r.memory_error)) continue;
    const auto setup = set_up(c, data);
    if (!std::holds_alternative<Setup>(setup)) continue;  // a share of memory that is no run
    const Setup& s = std::get<Setup>(setup);
    // A row may mean a variant of the software that it names.
    r.features = features_of(s.model, s.cluster, s.workload, s.strategy, s.runtime.name, s.runtime.base);
    out.push_back(std::move(r));
  }
  return out;
}

std::string to_csv(const std::vector<Residual>& rows) {
  std::string text = header() + '\n';
  for (const Residual& r : rows) {
    text += r.source;
    for (const std::string& word : r.features.words) text += ',' + word;
    for (const double n : r.features.numbers) text += fmt::format(",{:.0f}", n);
    for (const double e : {r.time_error, r.memory_error}) text += std::isnan(e) ? "," : fmt::format(",{:.4f}", e);
    text += '\n';
  }
  return text;
}

std::vector<Residual> parse_residuals(const std::string& text, const std::string& file) {
  std::vector<Residual> rows;
  int line = 0;
  for (std::size_t begin = 0; begin < text.size();) {
    const std::size_t end = std::min(text.find('\n', begin), text.size());
    const std::string record = text.substr(begin, end - begin);
    begin = end + 1;
    if (++line == 1) {
      if (record != header()) damaged(file, line, "not the columns of this version");
      continue;
    }
    std::vector<std::string> cells(1);
    for (const char c : record) {
      if (c == ',') cells.emplace_back();
      else cells.back() += c;
    }
    if (cells.size() != kColumns) damaged(file, line, fmt::format("{} cells instead of {}", cells.size(), kColumns));
    Residual r{cells[0], {}, 0, 0};
    for (std::size_t k = 0; k < kWordCount; ++k) r.features.words[k] = cells[1 + k];
    for (std::size_t k = 0; k < kNumberCount; ++k) r.features.numbers[k] = number(cells[1 + kWordCount + k], file, line);
    r.time_error = number(cells[kColumns - 2], file, line);
    r.memory_error = number(cells[kColumns - 1], file, line);
    rows.push_back(std::move(r));
  }
  return rows;
}

Residuals read_residuals() {
  std::vector<Residual> rows;
  for (const char* name : {"residuals.csv", "own_residuals.csv"}) {
    const std::string file = data_directory() + "/costmodel/validation/" + name;
    if (std::error_code none; !std::filesystem::exists(file, none)) continue;
    for (Residual& r : parse_residuals(read_profile_file(file), file)) rows.push_back(std::move(r));
  }
  return Residuals(std::move(rows));
}

}  // namespace llmplan
