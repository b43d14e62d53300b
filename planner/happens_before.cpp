#include "planner/happens_before.h"

#include <algorithm>

namespace llmplan {
namespace {

constexpr std::int64_t kHost = std::int64_t{1} << 61;  // the host's arena begins here

Clock latest(const Clock& a, const Clock& b) {
  Clock c;
  for (int s = 0; s < kStreams; ++s) c[s] = std::max(a[s], b[s]);
  return c;
}

// The last access to every transient buffer.
std::vector<InstrId> last_accesses(const Program& program) {
  std::vector<InstrId> last(program.buffers.size(), -1);
  for (InstrId i = 0; i < static_cast<InstrId>(program.instrs.size()); ++i)
    for (const std::vector<Ref>* refs : {&program.instrs[i].reads, &program.instrs[i].writes})
      for (const Ref& r : *refs)
        if (!program.buffers[r.buffer].persistent) last[r.buffer] = i;
  return last;
}

}  // namespace

Order::Order(const Program& program) {
  const std::size_t n = program.instrs.size();
  before_.reserve(n), stream_.reserve(n), position_.reserve(n);
  for (const Instr& i : program.instrs) append(i.stream, i.waits);
}

Clock Order::after(InstrId i) const {
  Clock c = before_[i];
  c[stream_[i]] = position_[i] + 1;
  return c;
}

void Order::append(Stream stream, const std::vector<InstrId>& waits) {
  const int s = static_cast<int>(stream);
  Clock c = tail_[s];
  for (InstrId w : waits)
    if (w >= 0 && w < size()) c = latest(c, after(w));
  before_.push_back(c);
  stream_.push_back(static_cast<std::uint8_t>(s));
  position_.push_back(count_[s]++);
  tail_[s] = c;
  tail_[s][s] = count_[s];
}

std::vector<InstrId> Order::needed(Stream stream, const std::vector<InstrId>& wanted) const {
  std::vector<InstrId> kept;
  Clock c = tail_[static_cast<int>(stream)];
  // Latest first: an instruction can only imply what was issued before it.
  for (auto w = wanted.rbegin(); w != wanted.rend(); ++w) {
    if (c[stream_[*w]] > position_[*w]) continue;
    c = latest(c, after(*w));
    kept.push_back(*w);
  }
  std::reverse(kept.begin(), kept.end());
  return kept;
}

std::vector<std::int64_t> addresses(const Program& program, const Layout& layout) {
  std::vector<std::int64_t> at(program.buffers.size());
  for (std::size_t b = 0; b < at.size(); ++b)
    at[b] = layout.offset[b].value + (program.buffers[b].space == Space::host ? kHost : 0);
  return at;
}

std::vector<std::int64_t> separate_addresses(const Program& program) {
  std::vector<std::int64_t> at(program.buffers.size());
  std::int64_t end = 0;
  for (std::size_t b = 0; b < at.size(); ++b) {
    at[b] = end;
    end += std::max<std::int64_t>(program.buffers[b].size.value, 1);
  }
  return at;
}

void add_waits(Program& program, const std::vector<std::int64_t>& address) {
  Order order;
  LastAccesses last;
  std::vector<bool> born(program.buffers.size());
  const std::vector<InstrId> death = last_accesses(program);
  std::vector<InstrId> wanted;
  for (InstrId i = 0; i < static_cast<InstrId>(program.instrs.size()); ++i) {
    Instr& in = program.instrs[i];
    wanted.assign(in.waits.begin(), in.waits.end());
    const auto want = [&](InstrId w) {
      if (w >= 0 && w != i && order.stream(w) != in.stream) wanted.push_back(w);
    };
    const auto after_writer = [&](const LastAccesses::Segment& s) { want(s.writer); };
    const auto after_all = [&](const LastAccesses::Segment& s) {
      want(s.writer);
      for (InstrId r : s.readers) want(r);
    };
    for (const std::vector<Ref>* refs : {&in.reads, &in.writes})
      for (const Ref& r : *refs) {
        if (program.buffers[r.buffer].persistent || born[r.buffer]) continue;
        born[r.buffer] = true;
        const std::int64_t begin = address[r.buffer], size = program.buffers[r.buffer].size.value;
        if (size > 0) last.look(begin, begin + size, after_all);
      }
    for (const Ref& r : in.reads) {
      const std::int64_t begin = address[r.buffer] + r.offset.value;
      if (r.size.value > 0) last.read(begin, begin + r.size.value, i, in.stream, after_writer);
    }
    for (const Ref& r : in.writes) {
      const std::int64_t begin = address[r.buffer] + r.offset.value;
      if (r.size.value > 0) last.write(begin, begin + r.size.value, i, r.buffer, after_all);
    }
    for (const std::vector<Ref>* refs : {&in.reads, &in.writes})
      for (const Ref& r : *refs)
        if (in.stream == Stream::compute && death[r.buffer] == i && program.buffers[r.buffer].size.value > 0)
          last.read(address[r.buffer], address[r.buffer] + program.buffers[r.buffer].size.value, i, in.stream,
                    [](const LastAccesses::Segment&) {});
    std::sort(wanted.begin(), wanted.end());
    wanted.erase(std::unique(wanted.begin(), wanted.end()), wanted.end());
    in.waits = order.needed(in.stream, wanted);
    order.append(in.stream, in.waits);
  }
}

}  // namespace llmplan
