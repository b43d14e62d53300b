#include "executor/local_comm.h"

#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstring>
#include <mutex>
#include <vector>

#include "costmodel/error.h"
#include "executor/bf16.h"
#include "executor/small_float.h"

namespace llmplan {
namespace {

using Clock = std::chrono::steady_clock;

struct Abort {
  std::atomic<bool> raised = false;
  std::mutex mutex;
  std::string reason;

  [[noreturn]] void fail() {
    std::lock_guard lock(mutex);
    throw Error("E0601", Exit::rank_lost, fmt::format("the run was stopped: {}", reason),
                "the other ranks stopped because of that one; --resume continues from the last checkpoint");
  }
};

// The ranks of one collective. Every call passes the barrier twice: before, so that all operands are
// ready and known, and after, so that nobody changes an operand that another still reads.
struct Group {
  Abort& abort;
  std::mutex mutex;
  std::condition_variable all_here;
  int arrived = 0;
  std::uint64_t generation = 0;
  Clock::time_point complete;
  struct Member { Collective op{}; const std::byte* in = nullptr; std::byte* out = nullptr; };
  std::vector<Member> members;

  Group(Abort& a, int size) : abort(a), members(static_cast<std::size_t>(size)) {}

  Clock::time_point barrier() {
    std::unique_lock lock(mutex);
    std::uint64_t mine = generation;
    if (++arrived == static_cast<int>(members.size())) {
      arrived = 0;
      ++generation;
      complete = Clock::now();
      all_here.notify_all();
    } else {
      all_here.wait(lock, [&] { return generation != mine || abort.raised; });
      if (generation == mine) {
        lock.unlock();
        abort.fail();
      }
    }
    return complete;
  }
};

// One direction between two ranks. The sender waits until the receiver has copied: a rendezvous, as the
// simulator assumes.
struct Channel {
  Abort& abort;
  std::mutex mutex;
  std::condition_variable changed;
  const std::byte* offered = nullptr;  // null: nothing is offered
  std::int64_t size = 0;
  bool taken = false;
  Clock::time_point offered_at, begun;

  explicit Channel(Abort& a) : abort(a) {}

  template <class Condition>
  void wait(std::unique_lock<std::mutex>& lock, Condition condition) {
    changed.wait(lock, [&] { return condition() || abort.raised; });
    if (!condition()) {
      lock.unlock();
      abort.fail();
    }
  }
};

float widen(float x) { return x; }
double widen(double x) { return x; }
std::int32_t widen(std::int32_t x) { return x; }
struct Bf16 { std::uint16_t bits; };
float widen(Bf16 x) { return from_bf16(x.bits); }
struct Fp16 { std::uint16_t bits; };
float widen(Fp16 x) { return from_fp16(x.bits); }
template <class T, class Wide>
T narrow(Wide x) {
  if constexpr (std::is_same_v<T, Bf16>) return {to_bf16(x)};
  else if constexpr (std::is_same_v<T, Fp16>) return {to_fp16(x)};
  else return x;
}

// out[i] = Σ over ranks, in rank order, of in_r[i], for elements [begin, end). `out` may be one of the
// inputs: a block is summed before it is stored.
template <class T>
void sum(const std::vector<const std::byte*>& in, std::byte* out, std::int64_t begin, std::int64_t end) {
  using Wide = decltype(widen(T{}));
  constexpr std::int64_t kBlock = 2048;  // stays in the first-level cache
  Wide total[kBlock];
  auto* result = reinterpret_cast<T*>(out);
  for (std::int64_t at = begin; at < end; at += kBlock) {
    std::int64_t n = std::min(kBlock, end - at);
    for (std::size_t r = 0; r < in.size(); ++r) {
      const T* x = reinterpret_cast<const T*>(in[r]) + at;
      if (r == 0)
        for (std::int64_t i = 0; i < n; ++i) total[i] = widen(x[i]);
      else
        for (std::int64_t i = 0; i < n; ++i) total[i] += widen(x[i]);
    }
    for (std::int64_t i = 0; i < n; ++i) result[at - begin + i] = narrow<T>(total[i]);
  }
}

// As above, for elements of `type`; `out` is where element `begin` goes.
void sum(DType type, const std::vector<const std::byte*>& in, std::byte* out, std::int64_t begin,
         std::int64_t end) {
  switch (type) {
    case DType::fp32: return sum<float>(in, out, begin, end);
    case DType::fp64: return sum<double>(in, out, begin, end);
    case DType::int32: return sum<std::int32_t>(in, out, begin, end);
    case DType::bf16: return sum<Bf16>(in, out, begin, end);
    case DType::fp16: return sum<Fp16>(in, out, begin, end);
    case DType::fp8_e4m3: case DType::fp8_e5m2: break;
  }
  throw Error("E0510", Exit::environment, fmt::format("sums of {} are not possible here", name_of(type)),
              "plan with --precision fp32");
}

void copy_bytes(std::byte* to, const std::byte* from, std::int64_t size) {
  if (to != from && size > 0) std::memmove(to, from, static_cast<std::size_t>(size));
}

// What member `me` does between the two barriers. `size` counts the whole, in bytes.
void exchange(Group& g, int me, const Collective& c) {
  using Kind = Collective::Kind;
  const auto n = static_cast<std::int64_t>(g.members.size());
  const std::int64_t width = size_of(c.dtype), count = c.size.value / width;
  auto input = [&](std::int64_t r) {
    auto& m = g.members[static_cast<std::size_t>(r)];
    return m.in ? m.in : m.out;
  };
  std::vector<const std::byte*> in;
  for (std::int64_t r = 0; r < n; ++r) in.push_back(input(r));
  auto& own = g.members[static_cast<std::size_t>(me)];
  auto slice = [&](std::int64_t r) { return count * r / n; };  // first element of slice r

  switch (c.kind) {
    case Kind::all_reduce: {
      // Each rank sums its slice into its own buffer, then fetches the others' sums.
      sum(c.dtype, in, own.out + slice(me) * width, slice(me), slice(me + 1));
      g.barrier();
      for (std::int64_t r = 0; r < n; ++r)
        if (r != me)
          copy_bytes(own.out + slice(r) * width, g.members[static_cast<std::size_t>(r)].out + slice(r) * width,
               (slice(r + 1) - slice(r)) * width);
      return;
    }
    case Kind::all_gather: {
      std::int64_t part = c.size.value / n;
      for (std::int64_t r = 0; r < n; ++r) {
        auto& m = g.members[static_cast<std::size_t>(r)];
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
      return copy_bytes(own.out, input(0), c.size.value);
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
  std::vector<std::unique_ptr<Group>> tp_groups, dp_groups, embedding_groups, world;
  std::vector<std::unique_ptr<Channel>> channels;  // [from][to]

  State(int tp_size, int dp_size, int pp_size) : tp(tp_size), dp(dp_size), pp(pp_size) {
    auto make = [&](auto& groups, int count, int size) {
      for (int i = 0; i < count; ++i) groups.push_back(std::make_unique<Group>(abort, size));
    };
    make(tp_groups, dp * pp, tp);
    make(dp_groups, tp * pp, dp);
    make(embedding_groups, tp * dp, pp > 1 ? 2 : 1);
    make(world, 1, tp * dp * pp);
    channels.resize(static_cast<std::size_t>(size() * size()));
    for (int from = 0; from < size(); ++from)
      for (int stage = 0; stage < pp; ++stage)
        channel(from, stage_peer(from, stage)) = std::make_unique<Channel>(abort);
  }

  int size() const { return tp * dp * pp; }
  int stage_peer(int rank, int stage) const { return rank % (tp * dp) + tp * dp * stage; }
  std::unique_ptr<Channel>& channel(int from, int to) { return channels[static_cast<std::size_t>(from * size() + to)]; }
};

namespace {

class LocalCommunicator : public Communicator {
 public:
  LocalCommunicator(LocalWorld::State& world, const Coordinates& where) : world_(world), where_(where) {}

  Time collective(const Collective& c, const std::byte* in, std::byte* out) override {
    auto [group, me] = member(c.axis);
    if (group->members.size() == 1) {
      if (in) copy_bytes(out, in, c.size.value);
      return Clock::now();
    }
    group->members[static_cast<std::size_t>(me)] = {c, in, out};
    Time begun = group->barrier();
    for (auto& m : group->members)
      if (!(m.op == c))
        throw Error("E0320", Exit::bug,
                    fmt::format("rank {} is at {} of {} bytes, another rank of its {} group at {} of {} bytes", where_.rank,
                                name_of(c.kind), c.size.value, name_of(c.axis), name_of(m.op.kind), m.op.size.value),
                    "the ranks' programs do not match; please report this plan");
    exchange(*group, me, c);
    group->barrier();
    return begun;
  }

  Time send(const Send& s, const std::byte* x) override {
    Channel& c = *world_.channel(where_.rank, world_.stage_peer(where_.rank, s.stage));
    std::unique_lock lock(c.mutex);
    c.wait(lock, [&] { return c.offered == nullptr; });
    c.offered = x;
    c.size = s.size.value;
    c.taken = false;
    c.offered_at = Clock::now();
    c.changed.notify_all();
    c.wait(lock, [&] { return c.taken; });
    c.offered = nullptr;
    c.changed.notify_all();
    return c.begun;
  }

  Time recv(const Recv& r, std::byte* x) override {
    Channel& c = *world_.channel(world_.stage_peer(where_.rank, r.stage), where_.rank);
    Time arrived = Clock::now();
    std::unique_lock lock(c.mutex);
    c.wait(lock, [&] { return c.offered != nullptr && !c.taken; });
    if (c.size != r.size.value)
      throw Error("E0320", Exit::bug,
                  fmt::format("rank {} expects {} bytes from stage {} and is sent {}", where_.rank, r.size.value, r.stage, c.size),
                  "the stages' programs do not match; please report this plan");
    Time begun = std::max(arrived, c.offered_at);
    const std::byte* from = c.offered;
    lock.unlock();  // the sender waits for `taken`, so its bytes stay as they are
    copy_bytes(x, from, r.size.value);
    lock.lock();
    c.begun = begun;
    c.taken = true;
    c.changed.notify_all();
    return begun;
  }

  void abort(const std::string& reason) noexcept override;

 private:
  struct Membership { Group* group; int index; };
  Membership member(Axis axis) {
    const Coordinates& w = where_;
    auto at = [](auto& groups, int i) { return groups[static_cast<std::size_t>(i)].get(); };
    switch (axis) {
      case Axis::tp: return {at(world_.tp_groups, w.dp + w.dp_size * w.pp), w.tp};
      case Axis::dp: return {at(world_.dp_groups, w.tp + w.tp_size * w.pp), w.dp};
      case Axis::embedding:
        if (w.pp != 0 && w.pp != w.pp_size - 1) break;
        return {at(world_.embedding_groups, w.tp + w.tp_size * w.dp), w.pp == 0 ? 0 : 1};
      case Axis::world: return {at(world_.world, 0), w.rank};
      case Axis::cp: case Axis::ep: break;
    }
    throw Error("E0320", Exit::bug, fmt::format("rank {} is in no {} group", w.rank, name_of(axis)),
                "please report this plan");
  }

  LocalWorld::State& world_;
  Coordinates where_;
};

void raise(LocalWorld::State& s, const std::string& reason) noexcept {
  {
    std::lock_guard lock(s.abort.mutex);
    if (!s.abort.raised) s.abort.reason = reason;
    s.abort.raised = true;
  }
  // Under each waiter's own lock, so that none can check the flag and then miss the call.
  for (auto* groups : {&s.tp_groups, &s.dp_groups, &s.embedding_groups, &s.world})
    for (auto& g : *groups) {
      std::lock_guard lock(g->mutex);
      g->all_here.notify_all();
    }
  for (auto& c : s.channels)
    if (c) {
      std::lock_guard lock(c->mutex);
      c->changed.notify_all();
    }
}

void LocalCommunicator::abort(const std::string& reason) noexcept { raise(world_, reason); }

}  // namespace

LocalWorld::LocalWorld(int tp, int dp, int pp) : state_(std::make_unique<State>(tp, dp, pp)) {}
LocalWorld::~LocalWorld() = default;
int LocalWorld::size() const { return state_->size(); }
void LocalWorld::abort(const std::string& reason) noexcept { raise(*state_, reason); }

Coordinates LocalWorld::coordinates(int rank) const {
  const State& s = *state_;
  Coordinates c;
  c.rank = rank;
  c.world = s.size();
  c.tp = rank % s.tp;
  c.dp = rank / s.tp % s.dp;
  c.pp = rank / (s.tp * s.dp);
  c.tp_size = s.tp;
  c.dp_size = s.dp;
  c.pp_size = s.pp;
  return c;
}

std::unique_ptr<Communicator> LocalWorld::communicator(int rank) {
  return std::make_unique<LocalCommunicator>(*state_, coordinates(rank));
}

}  // namespace llmplan
