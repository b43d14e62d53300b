#include "executor/staged_comm.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <utility>
#include <vector>

#include "executor/reduce.h"

namespace llmplan {
namespace {

using Clock = std::chrono::steady_clock;
using Outgoing = Transport::Outgoing;
using Incoming = Transport::Incoming;

Channel channel_of(Axis axis) {
  switch (axis) {
    case Axis::tp: return Channel::tp;
    case Axis::dp: return Channel::dp;
    case Axis::cp: return Channel::cp;
    case Axis::ep: return Channel::ep;
    case Axis::embedding: return Channel::embedding;
    case Axis::world: return Channel::world;
  }
  return Channel::world;
}

struct Group {
  std::vector<int> ranks;
  std::size_t me = 0;
  std::vector<std::byte> scratch;  // one block of each other member
};

class StagedCommunicator : public Communicator {
 public:
  StagedCommunicator(Transport& transport, const Coordinates& where) : transport_(transport), where_(where) {
    const Coordinates& w = where_;
    auto rank_at = [&](int tp, int dp, int pp) { return tp + w.tp_size * (dp + w.dp_size * pp); };
    auto add = [&](Axis axis, int rank) {
      Group& g = group(axis);
      if (rank == w.rank) g.me = g.ranks.size();
      g.ranks.push_back(rank);
    };
    for (int i = 0; i < w.tp_size; ++i) add(Axis::tp, rank_at(i, w.dp, w.pp));
    for (int i = 0; i < w.dp_size; ++i) add(Axis::dp, rank_at(w.tp, i, w.pp));
    for (int i = 0; i < w.world; ++i) add(Axis::world, i);
    if (w.pp == 0 || w.pp == w.pp_size - 1) {
      add(Axis::embedding, rank_at(w.tp, w.dp, 0));
      if (w.pp_size > 1) add(Axis::embedding, rank_at(w.tp, w.dp, w.pp_size - 1));
    }
  }

  Time collective(const Collective& c, const std::byte* in, std::byte* out) override {
    Group& g = group(c.axis);
    if (g.ranks.empty()) refuse_axis(where_.rank, c.axis);
    if (g.ranks.size() == 1) {
      if (in && in != out) std::memcpy(out, in, static_cast<std::size_t>(c.size.value));
      return Clock::now();
    }
    const Time begun = meet(g, c);
    exchange(g, c, in, out);
    return begun;
  }

  Time send(const Send& s, const std::byte* x) override {
    const std::int64_t size = s.size.value;
    const Outgoing out[] = {{peer(s.stage), std::as_bytes(std::span(&size, 1))}, {peer(s.stage), {x, static_cast<std::size_t>(size)}}};
    const Time begun = Clock::now();
    transport_.exchange(s.stage > where_.pp ? Channel::down : Channel::up, out, {});
    return begun;
  }

  Time recv(const Recv& r, std::byte* x) override {
    const Channel channel = r.stage < where_.pp ? Channel::down : Channel::up;
    std::int64_t size = 0;
    const Incoming header{peer(r.stage), std::as_writable_bytes(std::span(&size, 1))};
    transport_.exchange(channel, {}, std::span(&header, 1));
    if (size != r.size.value) refuse_mismatch(where_.rank, r, size);
    const Time begun = Clock::now();
    const Incoming in{peer(r.stage), {x, static_cast<std::size_t>(size)}};
    transport_.exchange(channel, {}, std::span(&in, 1));
    return begun;
  }

  void abort(const std::string& reason) noexcept override { transport_.stop(reason); }

 private:
  Group& group(Axis axis) { return groups_[static_cast<std::size_t>(channel_of(axis))]; }
  int peer(int stage) const {
    const int per_stage = where_.tp_size * where_.dp_size;
    return where_.rank % per_stage + per_stage * stage;
  }

  // Everyone tells everyone what it is about to do; returns when the last has.
  Time meet(Group& g, const Collective& mine) {
    std::vector<Collective> theirs(g.ranks.size(), mine);
    std::vector<Outgoing> out;
    std::vector<Incoming> in;
    for (std::size_t r = 0; r < g.ranks.size(); ++r) {
      if (r == g.me) continue;
      out.push_back({g.ranks[r], std::as_bytes(std::span(&mine, 1))});
      in.push_back({g.ranks[r], std::as_writable_bytes(std::span(&theirs[r], 1))});
    }
    transport_.exchange(channel_of(mine.axis), out, in);
    for (const Collective& other : theirs)
      if (!(other == mine)) refuse_mismatch(where_.rank, mine, other);
    return Clock::now();
  }

  void exchange(Group& g, const Collective& c, const std::byte* in, std::byte* out) {
    using Kind = Collective::Kind;
    const auto n = static_cast<std::int64_t>(g.ranks.size()), me = static_cast<std::int64_t>(g.me);
    const std::int64_t width = size_of(c.dtype), count = c.size.value / width, part = c.size.value / n;
    const Channel channel = channel_of(c.axis);
    auto slice = [&](std::int64_t r) { return count * r / n; };  // first element of slice r
    // Of `theirs(r)` for every other member r, and `ours(r)` for it.
    auto direct = [&](auto ours, auto theirs) {
      std::vector<Outgoing> outgoing;
      std::vector<Incoming> incoming;
      for (std::int64_t r = 0; r < n; ++r) {
        if (r == me) continue;
        outgoing.push_back({g.ranks[static_cast<std::size_t>(r)], ours(r)});
        incoming.push_back({g.ranks[static_cast<std::size_t>(r)], theirs(r)});
      }
      transport_.exchange(channel, outgoing, incoming);
    };
    auto bytes = [](auto* at, std::int64_t size) { return std::span(at, static_cast<std::size_t>(size)); };
    auto keep = [](std::byte* to, const std::byte* from, std::int64_t size) {
      if (to != from) std::memmove(to, from, static_cast<std::size_t>(size));
    };

    switch (c.kind) {
      case Kind::all_reduce:
        reduce(g, c, in ? in : out, out + slice(me) * width, slice);
        direct([&](std::int64_t) { return bytes(std::as_const(out) + slice(me) * width, (slice(me + 1) - slice(me)) * width); },
               [&](std::int64_t r) { return bytes(out + slice(r) * width, (slice(r + 1) - slice(r)) * width); });
        return;
      case Kind::reduce_scatter:
        return reduce(g, c, in ? in : out, in ? out : out + me * part, [&](std::int64_t r) { return r * (count / n); });
      case Kind::all_gather:
        if (in) keep(out + me * part, in, part);
        return direct([&](std::int64_t) { return bytes(std::as_const(out) + me * part, part); },
                      [&](std::int64_t r) { return bytes(out + r * part, part); });
      case Kind::broadcast:
        return direct([&](std::int64_t) { return bytes(std::as_const(out), me == 0 ? c.size.value : 0); },
                      [&](std::int64_t r) { return bytes(out, r == 0 ? c.size.value : 0); });
      case Kind::all_to_all:
        keep(out + me * part, in + me * part, part);
        return direct([&](std::int64_t r) { return bytes(in + r * part, part); }, [&](std::int64_t r) { return bytes(out + r * part, part); });
    }
  }

  // Adds the members' slice `me` into `to`, a block at a time, so that scratch does not grow with the operand.
  void reduce(Group& g, const Collective& c, const std::byte* from, std::byte* to, auto slice) {
    const auto n = static_cast<std::int64_t>(g.ranks.size()), me = static_cast<std::int64_t>(g.me);
    const std::int64_t width = size_of(c.dtype), block = kBlock / width;
    std::int64_t longest = 0;
    for (std::int64_t r = 0; r < n; ++r) longest = std::max(longest, slice(r + 1) - slice(r));
    g.scratch.resize(static_cast<std::size_t>(n * std::min(block, longest) * width));
    std::vector<Outgoing> outgoing;
    std::vector<Incoming> incoming;
    std::vector<const std::byte*> parts(static_cast<std::size_t>(n));
    auto piece = [&](std::int64_t r, std::int64_t at) { return std::clamp<std::int64_t>(slice(r + 1) - slice(r) - at, 0, block); };
    for (std::int64_t at = 0; at < longest; at += block) {
      outgoing.clear();
      incoming.clear();
      const std::int64_t mine = piece(me, at);
      for (std::int64_t r = 0; r < n; ++r) {
        if (r == me) {
          parts[static_cast<std::size_t>(r)] = from + (slice(me) + at) * width;
          continue;
        }
        std::byte* room = g.scratch.data() + r * std::min(block, longest) * width;
        parts[static_cast<std::size_t>(r)] = room;
        const int peer = g.ranks[static_cast<std::size_t>(r)];
        outgoing.push_back({peer, {from + (slice(r) + at) * width, static_cast<std::size_t>(piece(r, at) * width)}});
        incoming.push_back({peer, {room, static_cast<std::size_t>(mine * width)}});
      }
      transport_.exchange(channel_of(c.axis), outgoing, incoming);
      sum(c.dtype, parts, to + at * width, 0, mine);
    }
  }

  static constexpr std::int64_t kBlock = std::int64_t{1} << 20;  // bytes

  Transport& transport_;
  Coordinates where_;
  std::array<Group, kChannels> groups_;  // by channel_of(axis)
};

}  // namespace

std::unique_ptr<Communicator> staged_communicator(Transport& transport, const Coordinates& where) {
  return std::make_unique<StagedCommunicator>(transport, where);
}

}  // namespace llmplan
