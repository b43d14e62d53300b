// Which instruction has certainly finished before which other one starts: order within a stream, waits
// between streams, and what follows from both. List order alone means nothing under overlap.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <vector>

#include "planner/program.h"

namespace llmplan {

// Vector clocks over streams: clock[s] counts the instructions of stream s that have finished.
using Clock = std::array<std::int32_t, kStreams>;

class Order {
 public:
  Order() = default;
  explicit Order(const Program&);  // with the waits it has; a wait that points forward orders nothing

  // The next instruction in issue order, which waits for `waits`.
  void append(Stream, const std::vector<InstrId>& waits);
  // The waits out of `wanted` (sorted, all earlier) that the next instruction of this stream needs:
  // neither the stream's past nor another of these waits implies them.
  std::vector<InstrId> needed(Stream, const std::vector<InstrId>& wanted) const;

  // True if `first` has finished before `second` starts.
  bool before(InstrId first, InstrId second) const {
    return before_[second][stream_[first]] > position_[first];
  }
  // True if `first` has finished before the next instruction of this stream starts.
  bool before_next(InstrId first, Stream s) const {
    return tail_[static_cast<int>(s)][stream_[first]] > position_[first];
  }
  Stream stream(InstrId i) const { return static_cast<Stream>(stream_[i]); }
  InstrId size() const { return static_cast<InstrId>(stream_.size()); }

 private:
  Clock after(InstrId) const;  // its clock, and itself

  std::vector<Clock> before_;           // when an instruction starts
  std::vector<std::uint8_t> stream_;
  std::vector<std::int32_t> position_;  // in its stream
  std::array<Clock, kStreams> tail_{};  // when the stream's next instruction starts, without its waits
  Clock count_{};
};

// The last writer, and the last reader on each stream since then, of every byte of an address space. A
// new access conflicts with no others: earlier ones are ordered before these, or a hazard was found then.
// Intervals split where accesses begin and end and merge when written, so a sweep over a program is
// near-linear.
class LastAccesses {
 public:
  struct Segment {
    InstrId writer = -1;
    BufferId owner = -1;  // of the last write
    std::array<InstrId, kStreams> readers;
    Segment() { readers.fill(-1); }
  };

  LastAccesses() { segments_.emplace(0, Segment{}); }

  // `visit` sees every segment that meets [begin, end), as it was before this access.
  template <class Visit>
  void look(std::int64_t begin, std::int64_t end, Visit&& visit) const {
    for (auto at = std::prev(segments_.upper_bound(begin)); at != segments_.end() && at->first < end; ++at)
      visit(at->second);
  }
  template <class Visit>
  void read(std::int64_t begin, std::int64_t end, InstrId i, Stream stream, Visit&& visit) {
    for (auto at = split(begin, end); at != segments_.end() && at->first < end; ++at) {
      visit(at->second);
      at->second.readers[static_cast<int>(stream)] = i;
    }
  }
  template <class Visit>
  void write(std::int64_t begin, std::int64_t end, InstrId i, BufferId owner, Visit&& visit) {
    const auto first = split(begin, end);
    auto at = first;
    while (at != segments_.end() && at->first < end) {
      visit(at->second);
      at = at == first ? std::next(at) : segments_.erase(at);
    }
    first->second = Segment{};
    first->second.writer = i;
    first->second.owner = owner;
  }

 private:
  using Map = std::map<std::int64_t, Segment>;  // by first byte; a segment ends where the next begins
  Map::iterator split(std::int64_t begin, std::int64_t end) {
    auto at = std::prev(segments_.upper_bound(begin));
    if (at->first != begin) at = segments_.emplace_hint(std::next(at), begin, at->second);
    auto past = at;
    while (past != segments_.end() && past->first < end) ++past;
    if (past == segments_.end() || past->first != end)
      segments_.emplace_hint(past, end, std::prev(past)->second);
    return at;
  }

  Map segments_;
};

// Where the first byte of every buffer lies in one address space for both arenas.
std::vector<std::int64_t> addresses(const Program&, const Layout&);
// The same, as if no two buffers shared a byte.
std::vector<std::int64_t> separate_addresses(const Program&);

// Adds to every instruction the waits that its accesses need when buffers lie at these addresses, and
// leaves out all that others imply. A buffer's first access waits for whoever had any of its bytes before,
// so that no access that follows it has to; its last access, if by compute, counts as one to all of it, so
// that whoever has the bytes next waits for that and not for a transfer before it.
void add_waits(Program&, const std::vector<std::int64_t>& addresses);

}  // namespace llmplan
