#include "planner/trace.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstddef>
#include <iterator>

namespace llmplan {
namespace {

using Text = fmt::memory_buffer;

// A process or thread name. Names are llmplan's own and need no escapes.
void name(Text& out, std::string_view what, int pid, int tid, std::string_view text) {
  fmt::format_to(std::back_inserter(out), R"({{"ph":"M","name":"{}","pid":{},"tid":{},"args":{{"name":"{}"}}}},)"
                 "\n", what, pid, tid, text);
}

// The bucket of gradients or weights that a reduction, a gather or the optimizer works on, or -1.
std::ptrdiff_t bucket_of(const Program& p, const Instr& in) {
  if (in.phase != Phase::optimizer) return -1;
  for (const std::vector<Ref>* refs : {&in.reads, &in.writes})
    for (const Ref& r : *refs)
      for (std::size_t k = 0; k < p.buckets.size(); ++k) {
        const std::int64_t width = r.buffer == p.gradients ? size_of(DType::fp32) : r.buffer == p.weights ? size_of(p.buffers[r.buffer].dtype) : 0;
        if (width > 0 && r.offset.value == p.buckets[k].begin * width && r.size.value == p.buckets[k].elements * width)
          return static_cast<std::ptrdiff_t>(k);
      }
  return -1;
}

void event(Text& out, int pid, InstrId id, const Program& p, const Span& at) {
  const Instr& in = p.instrs[id];
  auto end = std::back_inserter(out);
  fmt::format_to(end, R"({{"ph":"X","name":"{}","cat":"{}","pid":{},"tid":{},"ts":{:.3f},"dur":{:.3f},"args":{{"instr":{})",
                 kind_of(in.op), name_of(in.phase), pid, static_cast<int>(in.stream), at.start.value * 1e6,
                 (at.finish - at.start).value * 1e6, id);
  if (in.layer >= 0) fmt::format_to(end, R"(,"layer":{})", in.layer);
  if (in.micro_batch >= 0) fmt::format_to(end, R"(,"micro_batch":{})", in.micro_batch);
  if (const auto k = bucket_of(p, in); k >= 0) fmt::format_to(end, R"(,"bucket":{})", k);
  if (const auto* g = std::get_if<Gemm>(&in.op)) fmt::format_to(end, R"(,"shape":"{}x{}x{}")", g->m, g->n, g->k);
  else fmt::format_to(end, R"(,"bytes":{})", bytes_moved(in.op).value);
  fmt::format_to(end, "}}}},\n");
}

// A buffer lives from the start of the first instruction that uses it to the end of the last.
void live_bytes(Text& out, int pid, const Program& p, const Timeline& t) {
  struct Life { double begin = -1, end = 0; };
  std::vector<Life> lives(p.buffers.size());
  std::int64_t live = 0;
  for (const Buffer& b : p.buffers)
    if (b.persistent && b.space == Space::device) live += b.size.value;
  for (std::size_t i = 0; i < std::min(t.size(), p.instrs.size()); ++i)
    for (const std::vector<Ref>* refs : {&p.instrs[i].reads, &p.instrs[i].writes})
      for (const Ref& r : *refs) {
        Life& l = lives[r.buffer];
        l.begin = l.begin < 0 ? t[i].start.value : std::min(l.begin, t[i].start.value);
        l.end = std::max(l.end, t[i].finish.value);
      }
  std::vector<std::pair<double, std::int64_t>> changes{{0, 0}};
  for (std::size_t b = 0; b < lives.size(); ++b) {
    if (lives[b].begin < 0 || p.buffers[b].persistent || p.buffers[b].space != Space::device) continue;
    changes.emplace_back(lives[b].begin, p.buffers[b].size.value);
    changes.emplace_back(lives[b].end, -p.buffers[b].size.value);
  }
  std::sort(changes.begin(), changes.end());  // at one moment deaths come first
  for (std::size_t k = 0; k < changes.size(); ++k) {
    live += changes[k].second;
    if (k + 1 < changes.size() && changes[k + 1].first == changes[k].first) continue;
    fmt::format_to(std::back_inserter(out), R"({{"ph":"C","name":"live bytes","pid":{},"ts":{:.3f},"args":{{"bytes":{}}}}},)"
                   "\n", pid, changes[k].first * 1e6, live);
  }
}

}  // namespace

std::string trace_json(const std::vector<Track>& tracks) {
  Text out;
  fmt::format_to(std::back_inserter(out), "{{\"displayTimeUnit\":\"ms\",\"traceEvents\":[\n");
  for (std::size_t k = 0; k < tracks.size(); ++k) {
    const int pid = static_cast<int>(k);
    const Program& p = *tracks[k].program;
    const Timeline& t = *tracks[k].timeline;
    name(out, "process_name", pid, 0, tracks[k].name);
    for (int s = 0; s < kStreams; ++s) name(out, "thread_name", pid, s, name_of(static_cast<Stream>(s)));
    for (std::size_t i = 0; i < std::min(t.size(), p.instrs.size()); ++i)
      event(out, pid, static_cast<InstrId>(i), p, t[i]);
    live_bytes(out, pid, p, t);
  }
  if (!tracks.empty()) out.resize(out.size() - 2);  // the last comma
  fmt::format_to(std::back_inserter(out), "\n]}}\n");
  return fmt::to_string(out);
}

std::string trace_json(const std::vector<Program>& programs, const Simulation& run) {
  std::vector<Track> tracks;
  for (std::size_t s = 0; s < programs.size(); ++s)
    tracks.push_back({fmt::format("stage {}", s), &programs[s], &run.stages[s]});
  return trace_json(tracks);
}

}  // namespace llmplan
