// One sweep over a program in issue order with the last accesses of every byte of the arena.
#include <algorithm>

#include "planner/happens_before.h"
#include "planner/verify.h"

namespace llmplan {
namespace {

using Segment = LastAccesses::Segment;

bool covers(const std::vector<Ref>& refs, BufferId b) {
  return std::any_of(refs.begin(), refs.end(), [&](const Ref& r) { return r.buffer == b; });
}

// The operand through which instruction `i` touched some of [begin, end).
BufferId touched(const Program& p, const std::vector<std::int64_t>& at, InstrId i, std::int64_t begin,
                 std::int64_t end) {
  for (const std::vector<Ref>* refs : {&p.instrs[i].writes, &p.instrs[i].reads})
    for (const Ref& r : *refs) {
      const std::int64_t first = at[r.buffer] + r.offset.value;
      if (first < end && begin < first + r.size.value) return r.buffer;
    }
  return -1;
}

// True if the op's result depends on what its k-th written operand held before, all of it.
bool updates(const Op& op, std::size_t k) {
  if (const auto* g = std::get_if<Gemm>(&op)) return g->accumulate;
  if (const auto* e = std::get_if<EmbeddingGrad>(&op)) return e->accumulate;
  if (const auto* r = std::get_if<RmsNormGrad>(&op)) return r->accumulate && k == 1;
  if (std::holds_alternative<Rope>(op)) return true;
  if (const auto* g = std::get_if<GradStats>(&op)) return g->accumulate;
  if (const auto* c = std::get_if<CrossEntropyGrad>(&op)) return k == 0 ? c->gradient : c->accumulate;
  if (std::holds_alternative<LossScale>(op) || std::holds_alternative<AdamW>(op)) return true;
  if (const auto* c = std::get_if<Collective>(&op))
    return c->kind == Collective::Kind::all_reduce || c->kind == Collective::Kind::broadcast;
  return false;
}

template <class Visit>
void look(const LastAccesses& last, const std::vector<std::int64_t>& at, const Ref& r, Visit&& visit) {
  const std::int64_t begin = at[r.buffer] + r.offset.value;
  if (r.size.value > 0) last.look(begin, begin + r.size.value, visit);
}

void record(LastAccesses& last, const std::vector<std::int64_t>& at, const Instr& in, InstrId i) {
  const auto nothing = [](const Segment&) {};
  for (const Ref& r : in.reads) {
    const std::int64_t begin = at[r.buffer] + r.offset.value;
    if (r.size.value > 0) last.read(begin, begin + r.size.value, i, in.stream, nothing);
  }
  for (const Ref& r : in.writes) {
    const std::int64_t begin = at[r.buffer] + r.offset.value;
    if (r.size.value > 0) last.write(begin, begin + r.size.value, i, r.buffer, nothing);
  }
}

}  // namespace

std::vector<Hazard> find_hazards(const Program& program, const Layout& layout) {
  const std::vector<std::int64_t> at = addresses(program, layout);
  const Order order(program);
  LastAccesses last;
  std::vector<Hazard> found;
  for (InstrId i = 0; i < static_cast<InstrId>(program.instrs.size()); ++i) {
    const Instr& in = program.instrs[i];
    const auto check = [&](InstrId earlier, const Ref& r) {
      if (earlier < 0 || order.before(earlier, i)) return;
      const std::int64_t begin = at[r.buffer] + r.offset.value;
      found.push_back({earlier, i, touched(program, at, earlier, begin, begin + r.size.value), r.buffer});
    };
    for (const Ref& r : in.reads) look(last, at, r, [&](const Segment& s) { check(s.writer, r); });
    for (const Ref& r : in.writes)
      look(last, at, r, [&](const Segment& s) {
        check(s.writer, r);
        for (InstrId reader : s.readers) check(reader, r);
      });
    record(last, at, in, i);
  }
  return found;
}

std::vector<StaleRead> find_stale_reads(const Program& program, const Layout& layout) {
  const std::vector<std::int64_t> at = addresses(program, layout);
  LastAccesses last;
  for (BufferId b = 0; b < static_cast<BufferId>(program.buffers.size()); ++b)
    if (program.buffers[b].persistent && program.buffers[b].size.value > 0)
      last.write(at[b], at[b] + program.buffers[b].size.value, -1, b, [](const Segment&) {});
  std::vector<StaleRead> found;
  for (InstrId i = 0; i < static_cast<InstrId>(program.instrs.size()); ++i) {
    const Instr& in = program.instrs[i];
    const auto check = [&](const Ref& r) {
      look(last, at, r, [&](const Segment& s) {
        if (s.owner != r.buffer) found.push_back({i, r.buffer, s.owner < 0 ? -1 : s.writer, s.owner});
      });
    };
    for (const Ref& r : in.reads) check(r);
    for (std::size_t k = 0; k < in.writes.size(); ++k)
      if (updates(in.op, k) && !covers(in.reads, in.writes[k].buffer)) check(in.writes[k]);
    record(last, at, in, i);
  }
  return found;
}

}  // namespace llmplan
