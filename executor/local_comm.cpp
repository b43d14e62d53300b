#include "executor/local_comm.h"

#include <algorithm>
#include <cstring>
#include <span>
#include <thread>
#include <vector>

#include "executor/reduce.h"

namespace llmplan {
namespace {

using Clock = std::chrono::steady_clock;

struct Abort {
  static constexpr std::size_t kLongest = 2000;
  std::atomic<bool> claimed, raised;
  char reason[kLongest + 1];

  [[noreturn]] void fail() const { throw RunStopped(reason); }
};

// All waiting is for a word to change. Its lowest bit says that the run was stopped: as abort changes
// the word itself, nobody can look, see nothing and then sleep.
constexpr std::uint32_t kStopped = 1, kOne = 2;

// The ranks of one collective. Every call passes the barrier twice: before, so that all operands are
// ready and known, and after, so that nobody changes an operand that another still reads.
struct Group {
  struct Member { Collective op; const std::byte* in; std::byte* out; };

  Word round;  // kOne · barriers passed
  std::atomic<int> arrived;
  Clock::time_point complete;
  Member* members;
  int size;

  std::span<Member> all() const { return {members, static_cast<std::size_t>(size)}; }
  Member& member(std::int64_t i) const { return members[i]; }

  Clock::time_point barrier(const Abort& abort) {
    const std::uint32_t mine = round.load(std::memory_order_acquire);
    if (mine & kStopped) abort.fail();
    if (arrived.fetch_add(1, std::memory_order_acq_rel) + 1 == size) {
      arrived.store(0, std::memory_order_relaxed);
      complete = Clock::now();
      round.fetch_add(kOne, std::memory_order_acq_rel);
      wake_all(round);
    } else {
      for (std::uint32_t now; ((now = round.load(std::memory_order_acquire)) & ~kStopped) == mine;) {
        if (now & kStopped) abort.fail();
        sleep_while(round, now);
      }
    }
    return complete;
  }
};

// One direction between two ranks. The sender waits until the receiver has copied: a rendezvous, as the
// simulator assumes. One thread of each rank at a time.
struct Channel {
  static constexpr std::uint32_t kEmpty = 0, kOffered = kOne, kTaken = 2 * kOne;

  Word stage;
  const std::byte* offered;
  std::int64_t size;
  Clock::time_point offered_at, begun;

  void wait(std::uint32_t until, const Abort& abort) {
    for (std::uint32_t now; ((now = stage.load(std::memory_order_acquire)) & ~kStopped) != until;) {
      if (now & kStopped) abort.fail();
      sleep_while(stage, now);
    }
  }
  void advance(std::uint32_t from, std::uint32_t to) {
    stage.fetch_add(to - from, std::memory_order_acq_rel);  // keeps kStopped as it is
    wake_all(stage);
  }
};

void copy_bytes(std::byte* to, const std::byte* from, std::int64_t size) {
  if (to != from && size > 0) std::memmove(to, from, static_cast<std::size_t>(size));
}

// What member `me` does between the two barriers. `size` counts the whole, in bytes.
void exchange(Group& g, int me, const Collective& c, const Abort& abort) {
  using Kind = Collective::Kind;
  const std::int64_t n = g.size, width = size_of(c.dtype), count = c.size.value / width;
  std::vector<const std::byte*> in;
  for (const Group::Member& m : g.all()) in.push_back(m.in ? m.in : m.out);
  const Group::Member& own = g.member(me);
  auto slice = [&](std::int64_t r) { return count * r / n; };  // first element of slice r

  switch (c.kind) {
    case Kind::all_reduce: {
      // Each rank sums its slice into its own buffer, then fetches the others' sums.
      sum(c.dtype, in, own.out + slice(me) * width, slice(me), slice(me + 1));
      g.barrier(abort);
      for (std::int64_t r = 0; r < n; ++r)
        if (r != me)
          copy_bytes(own.out + slice(r) * width, g.member(r).out + slice(r) * width, (slice(r + 1) - slice(r)) * width);
      return;
    }
    case Kind::all_gather: {
      std::int64_t part = c.size.value / n;
      for (std::int64_t r = 0; r < n; ++r) {
        const Group::Member& m = g.member(r);
        copy_bytes(own.out + r * part, m.in ? m.in : m.out + r * part, part);
      }
      return;
    }
    case Kind::reduce_scatter: {
      std::int64_t part = count / n;
      std::byte* to = own.in ? own.out : own.out + me * part * width;
      return sum(c.dtype, in, to, me * part, (me + 1) * part);
    }
    case Kind::broadcast:
      return copy_bytes(own.out, in.front(), c.size.value);
    case Kind::all_to_all: {
      std::int64_t part = c.size.value / n;
      for (std::int64_t r = 0; r < n; ++r) copy_bytes(own.out + r * part, in[static_cast<std::size_t>(r)] + me * part, part);
      return;
    }
  }
}

}  // namespace

struct LocalWorld::State {
  int tp, dp, pp;
  Abort abort;
  std::span<Group> tp_groups, dp_groups, embedding_groups, world;
  std::span<Channel> channels;  // [from][stage]: to the same (tp, dp) position of that stage

  int size() const { return tp * dp * pp; }
  Channel& channel(int from, int stage) { return channels[static_cast<std::size_t>(from * pp + stage)]; }

  static std::size_t room(int tp, int dp, int pp) {
    const auto n = static_cast<std::size_t>(tp * dp * pp);
    // A rank is in four groups; there are no more groups than members.
    return SharedMemory::room_for<State>() + SharedMemory::room_for<Channel>(n * static_cast<std::size_t>(pp)) +
           4 * (SharedMemory::room_for<Group>(n) + n * SharedMemory::room_for<Group::Member>());
  }
};

namespace {

class LocalCommunicator : public Communicator {
 public:
  LocalCommunicator(LocalWorld& owner, LocalWorld::State& world, const Coordinates& where)
      : owner_(owner), world_(world), where_(where) {}

  Time collective(const Collective& c, const std::byte* in, std::byte* out) override {
    auto [group, me] = member(c.axis);
    if (group->size == 1) {
      if (in) copy_bytes(out, in, c.size.value);
      return Clock::now();
    }
    group->member(me) = {c, in, out};
    Time begun = group->barrier(world_.abort);
    for (const Group::Member& m : group->all())
      if (!(m.op == c)) refuse_mismatch(where_.rank, c, m.op);
    exchange(*group, me, c, world_.abort);
    group->barrier(world_.abort);
    return begun;
  }

  Time send(const Send& s, const std::byte* x) override {
    Channel& c = world_.channel(where_.rank, s.stage);
    c.wait(Channel::kEmpty, world_.abort);
    c.offered = x;
    c.size = s.size.value;
    c.offered_at = Clock::now();
    c.advance(Channel::kEmpty, Channel::kOffered);
    c.wait(Channel::kTaken, world_.abort);
    const Time begun = c.begun;
    c.advance(Channel::kTaken, Channel::kEmpty);
    return begun;
  }

  Time recv(const Recv& r, std::byte* x) override {
    const int per_stage = where_.tp_size * where_.dp_size;
    Channel& c = world_.channel(where_.rank % per_stage + per_stage * r.stage, where_.pp);
    const Time arrived = Clock::now();
    c.wait(Channel::kOffered, world_.abort);
    if (c.size != r.size.value) refuse_mismatch(where_.rank, r, c.size);
    const Time begun = c.begun = std::max(arrived, c.offered_at);
    copy_bytes(x, c.offered, r.size.value);
    c.advance(Channel::kOffered, Channel::kTaken);
    return begun;
  }

  void abort(const std::string& reason) noexcept override { owner_.abort(reason); }

 private:
  struct Membership { Group* group; int index; };
  Membership member(Axis axis) {
    const Coordinates& w = where_;
    auto at = [](std::span<Group> groups, int i) { return &groups[static_cast<std::size_t>(i)]; };
    switch (axis) {
      case Axis::tp: return {at(world_.tp_groups, w.dp + w.dp_size * w.pp), w.tp};
      case Axis::dp: return {at(world_.dp_groups, w.tp + w.tp_size * w.pp), w.dp};
      case Axis::embedding:
        if (w.pp != 0 && w.pp != w.pp_size - 1) break;
        return {at(world_.embedding_groups, w.tp + w.tp_size * w.dp), w.pp == 0 ? 0 : 1};
      case Axis::world: return {at(world_.world, 0), w.rank};
      case Axis::cp: case Axis::ep: break;
    }
    refuse_axis(w.rank, axis);
  }

  LocalWorld& owner_;
  LocalWorld::State& world_;
  Coordinates where_;
};

}  // namespace

LocalWorld::LocalWorld(int tp, int dp, int pp) : memory_(State::room(tp, dp, pp)), state_(memory_.take<State>()) {
  State& s = *state_;
  s.tp = tp, s.dp = dp, s.pp = pp;
  auto make = [&](int count, int size) {
    std::span<Group> groups(memory_.take<Group>(static_cast<std::size_t>(count)), static_cast<std::size_t>(count));
    for (Group& g : groups) {
      g.size = size;
      g.members = memory_.take<Group::Member>(static_cast<std::size_t>(size));
    }
    return groups;
  };
  s.tp_groups = make(dp * pp, tp);
  s.dp_groups = make(tp * pp, dp);
  s.embedding_groups = make(tp * dp, pp > 1 ? 2 : 1);
  s.world = make(1, s.size());
  const auto channels = static_cast<std::size_t>(s.size() * pp);
  s.channels = {memory_.take<Channel>(channels), channels};
}
LocalWorld::~LocalWorld() = default;

int LocalWorld::size() const { return state_->size(); }
Coordinates LocalWorld::coordinates(int rank) const { return coordinates_of(rank, state_->tp, state_->dp, state_->pp); }

std::unique_ptr<Communicator> LocalWorld::communicator(int rank) {
  return std::make_unique<LocalCommunicator>(*this, *state_, coordinates(rank));
}

std::string LocalWorld::why_stopped() const { return state_->abort.raised ? state_->abort.reason : ""; }

void LocalWorld::abort(const std::string& reason) noexcept {
  State& s = *state_;
  if (!s.abort.claimed.exchange(true)) {
    reason.copy(s.abort.reason, Abort::kLongest);
    s.abort.raised = true;
  }
  // The first reason stands; should its author have been killed while writing, do not wait for ever.
  for (int i = 0; i < 100 && !s.abort.raised; ++i) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  for (std::span<Group> groups : {s.tp_groups, s.dp_groups, s.embedding_groups, s.world})
    for (Group& g : groups) {
      g.round.fetch_or(kStopped, std::memory_order_acq_rel);
      wake_all(g.round);
    }
  for (Channel& c : s.channels) {
    c.stage.fetch_or(kStopped, std::memory_order_acq_rel);
    wake_all(c.stage);
  }
}

}  // namespace llmplan
