#include "executor/cuda/shared_gpu.h"

#include <fmt/format.h>

#include <condition_variable>
#include <map>
#include <tuple>
#include <vector>

#include "executor/communicator.h"

namespace llmplan::cuda {
namespace {

struct Abort {
  std::atomic<bool> raised = false;
  std::mutex mutex;
  std::string reason;

  [[noreturn]] void fail() {
    std::lock_guard lock(mutex);
    throw RunStopped(reason);
  }
};

// What a rank says of the collective it is in.
struct Note {
  Collective op{};
  const std::byte* in = nullptr;
  std::byte* out = nullptr;
  EventHandle reached = nullptr;  // recorded before the meeting
};

// The ranks of one group. They meet up to three times per collective, always in the same order.
struct Group {
  Abort& abort;
  std::mutex mutex;
  std::condition_variable all_here;
  std::size_t arrived = 0;
  std::uint64_t generation = 0;
  std::vector<Note> coming, met;

  Group(Abort& a, int size) : abort(a), coming(static_cast<std::size_t>(size)) {}

  // Returns everybody's notes once all have left theirs.
  std::vector<Note> meet(int me, const Note& note) {
    std::unique_lock lock(mutex);
    const std::uint64_t mine = generation;
    coming[static_cast<std::size_t>(me)] = note;
    if (++arrived == coming.size()) {
      arrived = 0;
      ++generation;
      met = coming;
      all_here.notify_all();
      return met;
    }
    all_here.wait(lock, [&] { return generation != mine || abort.raised; });
    if (generation == mine) {
      lock.unlock();
      abort.fail();
    }
    return met;  // the next meeting cannot end before this one's last member has left: it is a member
  }
};

// One direction between two ranks: the sender waits until the receiver has enqueued its copy.
struct Channel {
  Abort& abort;
  std::mutex mutex;
  std::condition_variable changed;
  enum { empty, offered, taken } state = empty;
  const std::byte* from = nullptr;
  std::int64_t size = 0;
  EventHandle ready = nullptr, copied = nullptr;

  explicit Channel(Abort& a) : abort(a) {}

  void wait_for(std::unique_lock<std::mutex>& lock, int wanted) {
    changed.wait(lock, [&] { return state == wanted || abort.raised; });
    if (state == wanted) return;
    lock.unlock();
    abort.fail();
  }
};

}  // namespace

struct SharedGpu::Table {
  int tp, dp, pp;
  Abort abort;
  std::map<std::pair<Axis, int>, Group> groups;         // by axis and color
  std::map<std::pair<int, int>, Channel> channels;      // from rank to rank

  Table(int tp_size, int dp_size, int pp_size) : tp(tp_size), dp(dp_size), pp(pp_size) {
    auto add = [&](Axis axis, int count, int size) {
      for (int color = 0; color < count; ++color)
        groups.emplace(std::piecewise_construct, std::forward_as_tuple(axis, color), std::forward_as_tuple(abort, size));
    };
    add(Axis::tp, dp * pp, tp);
    add(Axis::dp, tp * pp, dp);
    add(Axis::embedding, tp * dp, pp > 1 ? 2 : 1);
    add(Axis::world, 1, tp * dp * pp);
    for (int from = 0; from < tp * dp * pp; ++from)
      for (int stage = 0; stage < pp; ++stage)
        channels.emplace(std::piecewise_construct, std::forward_as_tuple(from, peer(from, stage)), std::forward_as_tuple(abort));
  }
  int peer(int rank, int stage) const { return rank % (tp * dp) + tp * dp * stage; }
};

namespace {

class SharedCommunicator final : public GpuCommunicator {
 public:
  SharedCommunicator(std::shared_ptr<SharedGpu> owner, SharedGpu::Table& table, Device& device, const Coordinates& where)
      : owner_(std::move(owner)), table_(table), device_(device), where_(where) {
    for (auto& axis : events_)
      for (auto& e : axis) e = OwnedEvent(device, device.make_event(false));
    for (auto& e : transfers_) e = OwnedEvent(device, device.make_event(false));
  }

  void collective(const Collective& op, const std::byte* in, std::byte* out, StreamHandle s) override {
    auto [group, me] = membership(op.axis);
    const auto ranks = static_cast<std::int64_t>(group->coming.size());
    if (ranks == 1) {
      if (in) device_.copy(out, in, static_cast<std::size_t>(op.size.value), s);
      return;
    }
    // Everybody's operands are ready on the device before anybody touches them.
    const std::vector<Note> all = meet(*group, me, {op, in, out, nullptr}, 0, s);
    for (const Note& n : all)
      if (!(n.op == op))
        throw Error("E0320", Exit::bug,
                    fmt::format("rank {} is at {} of {} bytes, another rank of its {} group at {} of {} bytes", where_.rank,
                                name_of(op.kind), op.size.value, name_of(op.axis), name_of(n.op.kind), n.op.size.value),
                    "the ranks' programs do not match; please report this plan");
    exchange(*group, me, op, all, s);
    // Nobody goes on to change an operand that another still reads.
    meet(*group, me, {op, in, out, nullptr}, 2, s);
  }

  void send(const Send& op, const std::byte* x, StreamHandle s) override {
    Channel& c = table_.channels.at({where_.rank, table_.peer(where_.rank, op.stage)});
    EventHandle ready = transfers_[op.stage > where_.pp ? 0 : 1].get();
    device_.record(ready, s);
    std::unique_lock lock(c.mutex);
    c.wait_for(lock, Channel::empty);
    c.from = x;
    c.size = op.size.value;
    c.ready = ready;
    c.state = Channel::offered;
    c.changed.notify_all();
    c.wait_for(lock, Channel::taken);
    device_.wait(s, c.copied);
    c.state = Channel::empty;
    c.changed.notify_all();
  }

  void recv(const Recv& op, std::byte* x, StreamHandle s) override {
    Channel& c = table_.channels.at({table_.peer(where_.rank, op.stage), where_.rank});
    EventHandle copied = transfers_[op.stage < where_.pp ? 2 : 3].get();
    std::unique_lock lock(c.mutex);
    c.wait_for(lock, Channel::offered);
    if (c.size != op.size.value)
      throw Error("E0320", Exit::bug,
                  fmt::format("rank {} expects {} bytes from stage {} and is sent {}", where_.rank, op.size.value, op.stage, c.size),
                  "the stages' programs do not match; please report this plan");
    device_.wait(s, c.ready);
    device_.copy(x, c.from, static_cast<std::size_t>(op.size.value), s);
    device_.record(copied, s);
    c.copied = copied;
    c.state = Channel::taken;
    c.changed.notify_all();
  }

  bool enqueues_only() const override { return false; }
  void check() override { owner_->check(); }
  void abort(const std::string& reason) noexcept override { owner_->abort(reason); }

 private:
  struct Membership { Group* group; int index; };
  Membership membership(Axis axis) const {
    const Coordinates& w = where_;
    switch (axis) {
      case Axis::tp: return {&table_.groups.at({axis, w.dp + w.dp_size * w.pp}), w.tp};
      case Axis::dp: return {&table_.groups.at({axis, w.tp + w.tp_size * w.pp}), w.dp};
      case Axis::embedding:
        if (w.pp != 0 && w.pp != w.pp_size - 1) break;
        return {&table_.groups.at({axis, w.tp + w.tp_size * w.dp}), w.pp == 0 ? 0 : 1};
      case Axis::world: return {&table_.groups.at({axis, 0}), w.rank};
      case Axis::cp: case Axis::ep: break;
    }
    throw Error("E0320", Exit::bug, fmt::format("rank {} is in no {} group", w.rank, name_of(axis)), "please report this plan");
  }

  // The n-th meeting of a collective: what this stream has done so far, everybody else's stream has waited for
  // afterwards. An event is recorded again only in the next collective, which nobody enters before this meeting ends.
  std::vector<Note> meet(Group& group, int me, Note note, std::size_t n, StreamHandle s) {
    EventHandle event = events_[static_cast<std::size_t>(note.op.axis)][n].get();
    device_.record(event, s);
    note.reached = event;
    std::vector<Note> all = group.meet(me, note);
    for (std::size_t r = 0; r < all.size(); ++r)
      if (static_cast<int>(r) != me) device_.wait(s, all[r].reached);
    return all;
  }

  void copy(std::byte* to, const std::byte* from, std::int64_t bytes, StreamHandle s) {
    if (to != from && bytes > 0) device_.copy(to, from, static_cast<std::size_t>(bytes), s);
  }
  // to = Σ in rank order of `count` elements that begin at element `first` of every input.
  void sum(DType type, std::vector<const std::byte*> in, std::byte* to, std::int64_t first, std::int64_t count, StreamHandle s) {
    for (auto& p : in) p += first * size_of(type);
    if (count > 0) device_.rank_sum(type, count, in, to, s);
  }

  void exchange(Group& group, int me, const Collective& op, const std::vector<Note>& all, StreamHandle s) {
    const auto n = static_cast<std::int64_t>(all.size());
    const std::int64_t width = size_of(op.dtype), count = op.size.value / width, bytes = op.size.value / n;
    const Note& own = all[static_cast<std::size_t>(me)];
    std::vector<const std::byte*> in;
    for (const Note& note : all) in.push_back(note.in ? note.in : note.out);
    auto slice = [&](std::int64_t r) { return count * r / n; };  // first element of rank r's share
    switch (op.kind) {
      case Collective::Kind::all_reduce:
        // Each rank sums its share into its own buffer, then fetches the others' sums. Nobody but the share's owner
        // reads it before the sums are there.
        sum(op.dtype, in, own.out + slice(me) * width, slice(me), slice(me + 1) - slice(me), s);
        meet(group, me, own, 1, s);
        for (std::int64_t r = 0; r < n; ++r)
          if (r != me)
            copy(own.out + slice(r) * width, all[static_cast<std::size_t>(r)].out + slice(r) * width,
                 (slice(r + 1) - slice(r)) * width, s);
        return;
      case Collective::Kind::all_gather:
        for (std::int64_t r = 0; r < n; ++r) {
          const Note& from = all[static_cast<std::size_t>(r)];
          copy(own.out + r * bytes, from.in ? from.in : from.out + r * bytes, bytes, s);
        }
        return;
      case Collective::Kind::reduce_scatter:
        return sum(op.dtype, in, own.in ? own.out : own.out + me * bytes, me * (count / n), count / n, s);
      case Collective::Kind::broadcast:
        return copy(own.out, in[0], op.size.value, s);
      case Collective::Kind::all_to_all:
        for (std::int64_t r = 0; r < n; ++r) copy(own.out + r * bytes, in[static_cast<std::size_t>(r)] + me * bytes, bytes, s);
        return;
    }
  }

  std::shared_ptr<SharedGpu> owner_;
  SharedGpu::Table& table_;
  Device& device_;
  Coordinates where_;
  std::array<std::array<OwnedEvent, 3>, 6> events_;  // by axis and meeting
  std::array<OwnedEvent, 4> transfers_;              // sent down, up; received from above, from below
};

}  // namespace

SharedGpu::SharedGpu(int tp, int dp, int pp) : table_(std::make_unique<Table>(tp, dp, pp)) {}
SharedGpu::~SharedGpu() = default;

std::unique_ptr<GpuCommunicator> SharedGpu::communicator(Device& device, const Coordinates& where) {
  return std::make_unique<SharedCommunicator>(shared_from_this(), *table_, device, where);
}

void SharedGpu::abort(const std::string& reason) noexcept {
  Table& t = *table_;
  {
    std::lock_guard lock(t.abort.mutex);
    if (!t.abort.raised) t.abort.reason = reason;
    t.abort.raised = true;
  }
  // Under each waiter's own lock, so that none can check the flag and then miss the call.
  for (auto& [key, g] : t.groups) {
    std::lock_guard lock(g.mutex);
    g.all_here.notify_all();
  }
  for (auto& [key, c] : t.channels) {
    std::lock_guard lock(c.mutex);
    c.changed.notify_all();
  }
}

void SharedGpu::check() const {
  if (table_->abort.raised) table_->abort.fail();
}

}  // namespace llmplan::cuda
