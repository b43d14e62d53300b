// How bytes are reused.
//
// Buffers live from their first to their last access in issue order, and are packed best fit first into
// arenas of address ranges. Order in the list means nothing under overlap, so afterwards add_waits() makes every
// user of a range wait for those who had it before. Two things keep these waits harmless:
//
//  * A transfer never waits for a transfer of another stream, only for compute: on different stages they would
//    wait for each other in a circle. Hence buffers that a transfer writes first (received activations and
//    gradients) have a region per stream, in which bytes are reused only when compute or that stream
//    touched them last.
//  * A transfer's buffer is held one transfer longer: a received one from the moment when the transfer
//    before it on that stream starts, a sent one until the next is sent. So nobody waits for a transfer that
//    has only just started, at the price of one more boundary activation per direction.
//
// Everything else is packed in one region, or in two if that comes closer to the lower bound: what
// lives for a whole forward or backward pass would otherwise end up between scratch buffers.
#include "planner/layout.h"

#include <algorithm>
#include <map>
#include <numeric>
#include <set>

#include "planner/happens_before.h"

namespace llmplan {
namespace {

using std::int64_t;

constexpr double kHoldingPays = 0.04;

constexpr int64_t align(int64_t bytes) { return (bytes + kAlign - 1) / kAlign * kAlign; }

struct Life {
  InstrId birth = -1, death = -1;    // while it holds its bytes
  InstrId first = -1, last = -1;     // accesses in issue order; -1: never used
  Clock received;                    // per stream but compute: its first access, if no other precedes it, or -1
  Clock sent;                        // per stream but compute: its last access, if compute has none after it, or -1
};

// Free ranges of a region that grows at its end.
class Region {
 public:
  int64_t take(int64_t size) {
    if (size == 0) return 0;
    auto fit = by_size_.lower_bound({size, 0});
    if (fit == by_size_.end()) {
      int64_t at = end_;
      if (!by_offset_.empty()) {
        const auto [offset, free] = *by_offset_.rbegin();
        if (offset + free == end_) at = offset, remove(offset, free);
      }
      end_ = at + size;
      return at;
    }
    const auto [free, offset] = *fit;
    remove(offset, free);
    if (free > size) add(offset + size, free - size);
    return offset;
  }
  void give(int64_t offset, int64_t size) {
    auto next = by_offset_.lower_bound(offset);
    if (next != by_offset_.end() && next->first == offset + size) {
      size += next->second;
      const auto [o, s] = *next++;
      remove(o, s);
    }
    if (next != by_offset_.begin()) {
      const auto [o, s] = *std::prev(next);
      if (o + s == offset) remove(o, s), offset = o, size += s;
    }
    add(offset, size);
  }
  int64_t end() const { return end_; }

 private:
  void add(int64_t offset, int64_t size) { by_offset_.emplace(offset, size), by_size_.emplace(size, offset); }
  void remove(int64_t offset, int64_t size) { by_offset_.erase(offset), by_size_.erase({size, offset}); }
  std::map<int64_t, int64_t> by_offset_;
  std::set<std::pair<int64_t, int64_t>> by_size_;
  int64_t end_ = 0;
};

std::vector<Life> lifetimes(const Program& program, bool held) {
  const Order order(program);
  const auto n = static_cast<InstrId>(program.instrs.size());
  std::vector<InstrId> previous(n, -1), next(n, n);  // on the same stream
  Clock tail;
  tail.fill(-1);
  std::vector<Clock> first(program.buffers.size()), last(program.buffers.size());  // access per stream
  for (Clock& c : first) c.fill(-1);
  for (Clock& c : last) c.fill(-1);
  for (InstrId i = 0; i < n; ++i) {
    const Instr& in = program.instrs[i];
    const int s = static_cast<int>(in.stream);
    previous[i] = tail[s];
    if (tail[s] >= 0) next[tail[s]] = i;
    tail[s] = i;
    for (const std::vector<Ref>* refs : {&in.reads, &in.writes})
      for (const Ref& r : *refs) {
        if (first[r.buffer][s] < 0) first[r.buffer][s] = i;
        last[r.buffer][s] = i;
      }
  }
  std::vector<Life> lives(program.buffers.size());
  for (std::size_t b = 0; b < lives.size(); ++b) {
    Life& life = lives[b];
    for (int s = 0; s < kStreams; ++s) {
      if (first[b][s] < 0) continue;
      if (life.first < 0 || first[b][s] < life.first) life.first = first[b][s];
      life.last = std::max(life.last, last[b][s]);
    }
    life.birth = life.first, life.death = life.last;
    life.received.fill(-1), life.sent.fill(-1);
    for (int s = static_cast<int>(Stream::compute) + 1; s < kStreams; ++s) {
      const InstrId f = first[b][s], l = last[b][s];
      if (f < 0) continue;
      if (f == life.first || !order.before(life.first, f)) {
        life.received[s] = f;
        if (held && previous[f] >= 0) life.birth = std::min(life.birth, previous[f]);
      }
      const bool over = std::any_of(last[b].begin(), last[b].end(), [&](InstrId x) {
        return x >= 0 && x != l && order.stream(x) == Stream::compute && order.before(l, x);
      });
      if (over) continue;
      if (held) life.death = std::max(life.death, next[l]);
      life.sent[s] = l;
    }
  }
  return lives;
}

// Buffers by the instruction before which they are born, or after which they die.
struct Calendar {
  Calendar(const std::vector<Life>& lives, InstrId Life::*when, InstrId end) : begin(end + 2), ids(lives.size()) {
    const auto slot = [&](const Life& l) { return l.*when < 0 ? end : std::min(l.*when, end); };
    for (const Life& l : lives) ++begin[slot(l) + 1];
    for (std::size_t i = 1; i < begin.size(); ++i) begin[i] += begin[i - 1];
    std::vector<std::int32_t> at = begin;
    for (std::size_t b = 0; b < lives.size(); ++b) ids[at[slot(lives[b])]++] = static_cast<BufferId>(b);
  }
  std::vector<std::int32_t> begin;
  std::vector<BufferId> ids;
};

// kReceived: one per stream but compute; kKept: never reused.
enum RegionName { kPersistent, kKept, kReceived, kLong = kReceived + kStreams - 1, kShort, kRegions };

RegionName region_of(const Life& life, InstrId split) {
  RegionName region = life.death - life.birth > split ? kLong : kShort;
  for (int s = 1; s < kStreams; ++s)
    if (life.received[s] >= 0) region = region < kLong ? kKept : static_cast<RegionName>(kReceived + s - 1);
  if (region >= kLong || region == kKept) return region;
  for (int s = 1; s < kStreams; ++s)
    if (life.sent[s] >= 0 && kReceived + s - 1 != region) return kKept;
  return region;
}

struct Packing {
  std::vector<int64_t> offset;      // in its region
  std::vector<std::uint8_t> region;
  std::array<int64_t, kRegions> size{};
  int64_t total() const { return std::accumulate(size.begin(), size.end(), int64_t{0}); }
};

struct Lives {
  std::vector<Life> of;
  Calendar births, deaths;
  Lives(const Program& p, InstrId n, bool held)
      : of(lifetimes(p, held)), births(of, &Life::birth, n), deaths(of, &Life::death, n) {}
};

// Of one space; transients that live for more than `split` instructions go to a region of their own.
Packing pack(const Program& program, Space space, const Lives& lives, InstrId split) {
  const auto n = static_cast<InstrId>(program.instrs.size());
  Packing out;
  out.offset.resize(program.buffers.size());
  out.region.resize(program.buffers.size());
  std::array<Region, kRegions> regions;
  for (std::size_t b = 0; b < program.buffers.size(); ++b)
    if (program.buffers[b].space == space && program.buffers[b].persistent)
      out.offset[b] = regions[kPersistent].take(align(program.buffers[b].size.value));
  const auto here = [&](BufferId b) {
    return program.buffers[b].space == space && !program.buffers[b].persistent;
  };
  for (InstrId i = 0; i <= n; ++i) {
    for (auto k = lives.births.begin[i]; k < lives.births.begin[i + 1]; ++k) {
      const BufferId b = lives.births.ids[k];
      if (!here(b)) continue;
      out.region[b] = region_of(lives.of[b], split);
      out.offset[b] = regions[out.region[b]].take(align(program.buffers[b].size.value));
    }
    for (auto k = lives.deaths.begin[i]; k < lives.deaths.begin[i + 1]; ++k) {
      const BufferId b = lives.deaths.ids[k];
      if (!here(b) || out.region[b] == kKept) continue;
      const int64_t size = align(program.buffers[b].size.value);
      if (size > 0) regions[out.region[b]].give(out.offset[b], size);
    }
  }
  for (int r = 0; r < kRegions; ++r) out.size[r] = regions[r].end();
  return out;
}

// Most bytes between first and last access at once.
int64_t live_peak(const Program& program, const Lives& lives) {
  std::vector<int64_t> change(program.instrs.size() + 1);
  int64_t live = 0;
  for (std::size_t b = 0; b < program.buffers.size(); ++b) {
    if (program.buffers[b].space != Space::device) continue;
    const int64_t size = align(program.buffers[b].size.value);
    const Life& l = lives.of[b];
    if (program.buffers[b].persistent) live += size;
    else if (l.first >= 0) change[l.first] += size, change[l.last + 1] -= size;
  }
  int64_t peak = live;
  for (int64_t c : change) peak = std::max(peak, live += c);
  return peak;
}

// With or without a region for what lives long, whichever is smaller; `enough` ends the search.
Packing best_packing(const Program& program, Space space, const Lives& lives, double enough) {
  const auto n = static_cast<InstrId>(program.instrs.size());
  Packing best = pack(program, space, lives, n + 1);
  for (InstrId split = 8; split < n && static_cast<double>(best.total()) > enough; split *= 4)
    if (Packing p = pack(program, space, lives, split); p.total() < best.total()) best = std::move(p);
  return best;
}

}  // namespace

Layout place(Program& program) {
  const auto n = static_cast<InstrId>(program.instrs.size());
  const Lives held(program, n, true);
  Layout layout;
  layout.offset.resize(program.buffers.size());
  layout.live_peak = {live_peak(program, held)};
  const auto bound = static_cast<double>(layout.live_peak.value);
  for (const Space space : {Space::device, Space::host}) {
    Packing best = best_packing(program, space, held, 1.01 * bound);
    if (static_cast<double>(best.total()) > (1 + kHoldingPays) * bound)
      best = best_packing(program, space, Lives(program, n, false), 1.01 * bound);
    std::array<int64_t, kRegions> begin{};
    for (int r = 1; r < kRegions; ++r) begin[r] = begin[r - 1] + best.size[r - 1];
    for (std::size_t b = 0; b < program.buffers.size(); ++b)
      if (program.buffers[b].space == space) layout.offset[b] = {begin[best.region[b]] + best.offset[b]};
    (space == Space::device ? layout.device_arena : layout.host_arena) = {best.total()};
  }
  add_waits(program, addresses(program, layout));
  return layout;
}

}  // namespace llmplan
