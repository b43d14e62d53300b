#include "tools/llmplan/timeline.h"

#include <algorithm>
#include <array>
#include <limits>

#include <fmt/format.h>

namespace llmplan::cli {
namespace {

using Intervals = std::vector<std::pair<double, double>>;

// Sorted and merged.
Intervals merged(Intervals all) {
  std::sort(all.begin(), all.end());
  Intervals result;
  for (const auto& [a, b] : all) {
    if (!result.empty() && a <= result.back().second) result.back().second = std::max(result.back().second, b);
    else result.emplace_back(a, b);
  }
  return result;
}

double length(const Intervals& all) {
  double sum = 0;
  for (const auto& [a, b] : all) sum += b - a;
  return sum;
}

struct Life { double begin, end; Bytes size; };

// A buffer lives from the start of its first use to the end of its last; a persistent one always.
std::vector<Life> lives(const Program& p, const Timeline& t, Seconds step) {
  std::vector<Life> result(p.buffers.size(), {std::numeric_limits<double>::infinity(), -1, {}});
  for (std::size_t b = 0; b < p.buffers.size(); ++b) {
    result[b].size = p.buffers[b].size;
    if (p.buffers[b].persistent) result[b] = {0, step.value, p.buffers[b].size};
  }
  for (std::size_t i = 0; i < p.instrs.size(); ++i) {
    const auto use = [&](const Ref& r) {
      Life& life = result[static_cast<std::size_t>(r.buffer)];
      life.begin = std::min(life.begin, t[i].start.value);
      life.end = std::max(life.end, t[i].finish.value);
    };
    for (const Ref& r : p.instrs[i].reads) use(r);
    for (const Ref& r : p.instrs[i].writes) use(r);
  }
  std::vector<Life> device;
  for (std::size_t b = 0; b < p.buffers.size(); ++b)
    if (p.buffers[b].space == Space::device && result[b].end >= 0) device.push_back(result[b]);
  return device;
}

struct Change { double at; std::int64_t bytes; };

// Births and deaths in time; at one moment deaths come first.
std::vector<Change> changes(const std::vector<Life>& all) {
  std::vector<Change> list;
  for (const Life& l : all) {
    list.push_back({l.begin, l.size.value});
    list.push_back({l.end, -l.size.value});
  }
  std::sort(list.begin(), list.end(), [](const Change& a, const Change& b) {
    return a.at != b.at ? a.at < b.at : a.bytes < b.bytes;
  });
  return list;
}

char letter(Phase p) {
  switch (p) {
    case Phase::forward: return 'F';
    case Phase::recompute: return 'R';
    case Phase::backward: return 'B';
    case Phase::optimizer: return 'O';
  }
  return '?';
}

}  // namespace

StageSummary summarize(const Program& p, const Layout& layout, const Timeline& t, Seconds step) {
  StageSummary s;
  Intervals compute, all;
  for (std::size_t i = 0; i < p.instrs.size(); ++i) {
    const Seconds time = t[i].finish - t[i].start;
    if (time.value <= 0) continue;
    all.emplace_back(t[i].start.value, t[i].finish.value);
    if (is_transfer(p.instrs[i].op)) {
      s.transfers += time;
      continue;
    }
    compute.push_back(all.back());
    if (p.instrs[i].phase == Phase::recompute) s.recompute += time;
  }
  s.compute = {length(merged(compute))};
  const double busy = length(merged(all));
  s.exposed = {busy - s.compute.value};
  s.idle = {std::max(0.0, step.value - busy)};
  s.arena = layout.device_arena;
  std::int64_t live = 0;
  for (const Change& c : changes(lives(p, t, step))) {
    live += c.bytes;
    if (live > s.live_peak.value) {
      s.live_peak = {live};
      s.peak_at = {c.at};
    }
  }
  return s;
}

std::string timeline_rows(const std::vector<Program>& programs, const Simulation& simulation, int width) {
  std::string text;
  const double slice = simulation.step.value / width;
  for (std::size_t stage = 0; stage < programs.size(); ++stage) {
    // In each slice the letter of whatever took most of it.
    std::vector<std::array<double, 5>> share(static_cast<std::size_t>(width));
    const Program& p = programs[stage];
    for (std::size_t i = 0; i < p.instrs.size(); ++i) {
      const Span& span = simulation.stages[stage][i];
      const std::size_t kind = is_transfer(p.instrs[i].op) ? 4 : static_cast<std::size_t>(p.instrs[i].phase);
      for (int c = std::clamp(static_cast<int>(span.start.value / slice), 0, width - 1); c < width; ++c) {
        const double overlap = std::min(span.finish.value, (c + 1) * slice) - std::max(span.start.value, c * slice);
        if (overlap <= 0) break;
        share[static_cast<std::size_t>(c)][kind] += overlap;
      }
    }
    std::string row;
    for (const auto& s : share) {
      const auto compute = std::max_element(s.begin(), s.begin() + 4);
      const double busy = s[0] + s[1] + s[2] + s[3];
      if (busy >= slice / 3) row += letter(static_cast<Phase>(compute - s.begin()));
      else row += s[4] >= slice / 3 ? 'c' : busy + s[4] > slice / 8 ? ':' : '.';
    }
    text += fmt::format(" {:>5} |{}|\n", fmt::format("s{}", programs[stage].stage), row);
  }
  return text;
}

std::vector<Bytes> live_bytes(const Program& p, const Timeline& t, Seconds step, int columns) {
  std::vector<Bytes> slices(static_cast<std::size_t>(columns));
  std::int64_t live = 0;
  int column = 0;
  for (const Change& c : changes(lives(p, t, step))) {
    const int at = std::clamp(static_cast<int>(c.at / step.value * columns), 0, columns - 1);
    for (; column < at; ++column)  // what was alive reaches into the slices in between
      slices[static_cast<std::size_t>(column) + 1].value = live;
    live += c.bytes;
    auto& slice = slices[static_cast<std::size_t>(column)];
    slice = std::max(slice, Bytes{live});
  }
  return slices;
}

std::string bars(const std::vector<Bytes>& values, Bytes full) {
  static const char* const kBars[] = {"▁", "▂", "▃", "▄", "▅", "▆", "▇", "█"};
  std::string text;
  for (Bytes b : values)
    text += kBars[std::clamp(static_cast<int>(8 * (b / full)), 0, 7)];
  return text;
}

}  // namespace llmplan::cli
