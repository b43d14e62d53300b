#include "planner/verify.h"

#include <fmt/format.h>

#include <map>

#include "costmodel/error.h"
#include "planner/simulate.h"

namespace llmplan {
namespace {

using std::int64_t;

[[noreturn]] void refuse(const std::string& message) {
  throw Error("E0320", Exit::bug, message,
              "the program was not started; if llmplan itself made it, this is a bug: please report the plan");
}

const char* const kinds[] = {"reads", "writes"};

// ---- One instruction

// A collective that is not in place lists a shard, whose size is a whole fraction of the whole.
bool is_sharded_form(const Collective& c, const Instr& in) {
  if (in.reads.size() != 1 || in.writes.size() != 1) return false;
  const bool gather = c.kind == Collective::Kind::all_gather;
  if (!gather && c.kind != Collective::Kind::reduce_scatter) return false;
  const Bytes whole = (gather ? in.writes : in.reads)[0].size, shard = (gather ? in.reads : in.writes)[0].size;
  return whole == c.size && shard.value > 0 && whole.value % shard.value == 0;
}

void verify_operands(const Program& p, InstrId id) {
  const Instr& in = p.instrs[id];
  for (const std::vector<Ref>* refs : {&in.reads, &in.writes})
    for (const Ref& r : *refs) {
      if (r.buffer < 0 || r.buffer >= static_cast<BufferId>(p.buffers.size()))
        refuse(fmt::format("{}: operand of buffer {}, which does not exist", describe(p, id), r.buffer));
      const Buffer& b = p.buffers[r.buffer];
      if (r.offset.value < 0 || r.size.value < 0 || r.offset.value > b.size.value - r.size.value)
        refuse(fmt::format("{}: bytes [{}, {}) lie outside buffer '{}' of {} bytes", describe(p, id), r.offset.value,
                           r.offset.value + r.size.value, b.name, b.size.value));
    }
  if (const auto* c = std::get_if<Collective>(&in.op); c && is_sharded_form(*c, in)) return;
  OperandSizes need = operand_sizes(in.op);
  if (in.reads.size() == need.reads.size() + need.optional_reads.size())
    need.reads.insert(need.reads.end(), need.optional_reads.begin(), need.optional_reads.end());
  for (int k = 0; k < 2; ++k) {
    const std::vector<Ref>& have = k == 0 ? in.reads : in.writes;
    const std::vector<Bytes>& want = k == 0 ? need.reads : need.writes;
    if (have.size() != want.size())
      refuse(fmt::format("{}: {} {} operands, but has {}", describe(p, id), kinds[k], want.size(), have.size()));
    for (std::size_t n = 0; n < want.size(); ++n)
      if (have[n].size != want[n])
        refuse(fmt::format("{}: {} {} bytes as operand {}, but '{}' gives {}", describe(p, id), kinds[k],
                           want[n].value, n, p.buffers[have[n].buffer].name, have[n].size.value));
  }
}

void verify_waits(const Program& p, InstrId id) {
  for (InstrId w : p.instrs[id].waits)
    if (w < 0 || w >= id)
      refuse(fmt::format("{}: waits for #{}, which is not issued before it", describe(p, id), w));
}

// Transfers of both directions on one in-order stream would block each other: a stage that sends an
// activation waits for a neighbour that waits to send a gradient.
void verify_stream(const Program& p, InstrId id, int stages) {
  const Instr& in = p.instrs[id];
  const auto* send = std::get_if<Send>(&in.op);
  const auto* recv = std::get_if<Recv>(&in.op);
  if (!send && !recv) {
    if (in.stream == Stream::down || in.stream == Stream::up)
      refuse(fmt::format("{}: stream {} is for transfers between stages", describe(p, id), name_of(in.stream)));
    return;
  }
  const int peer = send ? send->stage : recv->stage;
  if (peer < 0 || peer >= stages || (peer != p.stage - 1 && peer != p.stage + 1))
    refuse(fmt::format("{}: stage {} is no neighbour", describe(p, id), peer));
  const Stream right = (peer > p.stage) == (send != nullptr) ? Stream::down : Stream::up;
  if (in.stream != right)
    refuse(fmt::format("{}: belongs on stream {}, because transfers in both directions on one in-order "
                       "stream deadlock", describe(p, id), name_of(right)));
}

void verify_layout(const Program& p, const Layout& layout) {
  if (layout.offset.size() != p.buffers.size())
    refuse(fmt::format("stage {}: {} offsets for {} buffers", p.stage, layout.offset.size(), p.buffers.size()));
  for (std::size_t b = 0; b < p.buffers.size(); ++b) {
    const Buffer& buffer = p.buffers[b];
    const Bytes arena = buffer.space == Space::device ? layout.device_arena : layout.host_arena;
    const int64_t at = layout.offset[b].value;
    if (at < 0 || buffer.size.value < 0 || at > arena.value - buffer.size.value || at % kAlign != 0)
      refuse(fmt::format("stage {}: buffer '{}' of {} bytes at offset {} of an arena of {}", p.stage, buffer.name,
                         buffer.size.value, at, arena.value));
  }
}

// ---- Between stages

// What each stage does on a channel, in order.
using Channel = std::vector<InstrId>;

void verify_pairs(const std::vector<Program>& programs, int from, int to) {
  const Program &a = programs[from], &b = programs[to];
  Channel sends, recvs;
  for (InstrId i = 0; i < static_cast<InstrId>(a.instrs.size()); ++i)
    if (const auto* s = std::get_if<Send>(&a.instrs[i].op); s && s->stage == to) sends.push_back(i);
  for (InstrId i = 0; i < static_cast<InstrId>(b.instrs.size()); ++i)
    if (const auto* r = std::get_if<Recv>(&b.instrs[i].op); r && r->stage == from) recvs.push_back(i);
  for (std::size_t k = 0; k < std::min(sends.size(), recvs.size()); ++k) {
    const Instr &s = a.instrs[sends[k]], &r = b.instrs[recvs[k]];
    if (std::get<Send>(s.op).size != std::get<Recv>(r.op).size || s.micro_batch != r.micro_batch || s.phase != r.phase)
      refuse(fmt::format("{} would meet {}", describe(a, sends[k]), describe(b, recvs[k])));
  }
  if (sends.size() > recvs.size())
    refuse(fmt::format("{}: stage {} never receives it", describe(a, sends[recvs.size()]), to));
  if (recvs.size() > sends.size())
    refuse(fmt::format("{}: stage {} never sends it", describe(b, recvs[sends.size()]), from));
}

Channel collectives(const Program& p, Axis axis) {
  Channel found;
  for (InstrId i = 0; i < static_cast<InstrId>(p.instrs.size()); ++i)
    if (const auto* c = std::get_if<Collective>(&p.instrs[i].op); c && c->axis == axis) found.push_back(i);
  return found;
}

void verify_collectives(const std::vector<Program>& programs, Axis axis) {
  const std::size_t last = programs.size() - 1;
  const Channel reference = collectives(programs[0], axis);
  for (std::size_t s = 1; s <= last; ++s) {
    const Program& p = programs[s];
    const Channel own = collectives(p, axis);
    if (axis == Axis::embedding && s != last) {
      if (!own.empty()) refuse(describe(p, own[0]) + ": only the first and the last stage share an embedding");
      continue;
    }
    for (std::size_t k = 0; k < std::min(own.size(), reference.size()); ++k)
      if (!(p.instrs[own[k]].op == programs[0].instrs[reference[k]].op))
        refuse(fmt::format("{} would meet {}", describe(programs[0], reference[k]), describe(p, own[k])));
    if (own.size() > reference.size())
      refuse(describe(p, own[reference.size()]) + ": stage 0 takes no part in it");
    if (own.size() < reference.size())
      refuse(fmt::format("{}: stage {} takes no part in it", describe(programs[0], reference[own.size()]), s));
  }
}

struct UnitTime : TimeModel {
  Seconds time(const Op&) const override { return {1}; }
};

}  // namespace

void verify(const std::vector<Program>& programs, const std::vector<Layout>& layouts) {
  const int stages = static_cast<int>(programs.size());
  if (layouts.size() != programs.size())
    refuse(fmt::format("{} layouts for {} programs", layouts.size(), programs.size()));
  for (int s = 0; s < stages; ++s) {
    const Program& p = programs[s];
    if (p.stage != s) refuse(fmt::format("the program of stage {} says that it is stage {}'s", s, p.stage));
    for (InstrId i = 0; i < static_cast<InstrId>(p.instrs.size()); ++i) {
      verify_operands(p, i);
      verify_waits(p, i);
      verify_stream(p, i, stages);
    }
    verify_layout(p, layouts[s]);
  }
  for (int s = 0; s + 1 < stages; ++s) {
    verify_pairs(programs, s, s + 1);
    verify_pairs(programs, s + 1, s);
  }
  if (stages > 0) {
    verify_collectives(programs, Axis::embedding);
    verify_collectives(programs, Axis::world);
  }
  for (int s = 0; s < stages; ++s) {
    const Program& p = programs[s];
    if (const auto h = find_hazards(p, layouts[s]); !h.empty())
      refuse(fmt::format("{} does not wait for {}, but both use bytes of '{}'{}", describe(p, h[0].second),
                         describe(p, h[0].first), p.buffers[h[0].b].name,
                         h[0].a == h[0].b ? "" : " that were those of '" + p.buffers[h[0].a].name + "'"));
    if (const auto r = find_stale_reads(p, layouts[s]); !r.empty())
      refuse(fmt::format("{} reads '{}', {}", describe(p, r[0].reader), p.buffers[r[0].buffer].name,
                         r[0].by < 0 ? "which nothing has written"
                                     : "whose bytes now belong to '" + p.buffers[r[0].by].name + "'"));
  }
  if (const Simulation run = simulate(programs, UnitTime{}); !run.deadlock.empty()) {
    std::string stuck = run.deadlock;
    for (std::size_t at; (at = stuck.find('\n')) != std::string::npos;) stuck.replace(at, 1, "; ");
    refuse("the step would never end, stuck at " + stuck);
  }
}

}  // namespace llmplan
