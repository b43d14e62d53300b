// Event-driven: an instruction starts when its stream's predecessor, its waits and its partners on other
// stages allow it, and finishes when its work is done at the speed that its neighbours leave it. Each
// instruction is touched a constant number of times, and the queue of events holds only what is running.
#include "planner/simulate.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <queue>

#include "costmodel/error.h"
#include "planner/verify.h"

namespace llmplan {
namespace {

using Id = std::int32_t;  // of an instruction among those of all stages
constexpr Id kNone = -1;

struct Graph {
  explicit Graph(const std::vector<Program>&);

  std::vector<Id> begin;                 // of each stage
  std::vector<std::int32_t> stage;       // by Id
  std::vector<std::int32_t> open;        // what has to finish before it may start
  std::vector<Id> next;                  // on its stream
  std::vector<Id> waiters, waiters_at;   // who waits for it: waiters[waiters_at[id]…waiters_at[id + 1])
  std::vector<Id> meeting;               // index of the meeting that it takes part in
  std::vector<std::vector<Id>> members;  // of each meeting

  void meet(const std::vector<std::vector<Id>>& queues);
};

// The k-th of every queue meet. Who is left over waits for ever.
void Graph::meet(const std::vector<std::vector<Id>>& queues) {
  std::size_t longest = 0;
  for (const auto& q : queues) longest = std::max(longest, q.size());
  for (std::size_t k = 0; k < longest; ++k) {
    std::vector<Id> group;
    for (const auto& q : queues)
      if (k < q.size()) group.push_back(q[k]);
    for (Id id : group) {
      meeting[id] = static_cast<Id>(members.size());
      if (group.size() < queues.size()) ++open[id];
    }
    members.push_back(std::move(group));
  }
}

Graph::Graph(const std::vector<Program>& programs) {
  const int stages = static_cast<int>(programs.size());
  begin.push_back(0);
  for (const Program& p : programs) begin.push_back(begin.back() + static_cast<Id>(p.instrs.size()));
  const Id n = begin.back();
  stage.resize(n), open.assign(n, 0), next.assign(n, kNone), meeting.assign(n, kNone);
  waiters_at.assign(n + 1, 0);

  std::vector<std::vector<Id>> first_last(std::min(stages, 2)), all(stages);
  // Per pair of neighbours and direction: [0] sends, [1] receives.
  std::vector<std::array<std::vector<std::vector<Id>>, 2>> channels(std::max(stages - 1, 0));
  for (auto& pair : channels)
    for (auto& direction : pair) direction.resize(2);

  for (int s = 0; s < stages; ++s) {
    std::array<Id, kStreams> tail;
    tail.fill(kNone);
    for (InstrId i = 0; i < static_cast<InstrId>(programs[s].instrs.size()); ++i) {
      const Instr& in = programs[s].instrs[i];
      const Id id = begin[s] + i;
      stage[id] = s;
      Id& before = tail[static_cast<int>(in.stream)];
      if (before != kNone) next[before] = id, ++open[id];
      before = id;
      for (InstrId w : in.waits) {
        ++open[id];
        if (w >= 0 && w < static_cast<InstrId>(programs[s].instrs.size())) ++waiters_at[begin[s] + w + 1];
      }
      const auto transfer = [&](int peer, int end) {
        if (peer != s - 1 && peer != s + 1) ++open[id];  // nobody is there
        if (peer < 0 || peer >= stages) ++open[id];
        else if (peer == s + 1) channels[s][end][end].push_back(id);         // [0]: down
        else if (peer == s - 1) channels[peer][1 - end][end].push_back(id);  // [1]: up
      };
      if (const auto* send = std::get_if<Send>(&in.op)) transfer(send->stage, 0);
      if (const auto* recv = std::get_if<Recv>(&in.op)) transfer(recv->stage, 1);
      if (const auto* c = std::get_if<Collective>(&in.op); c && stages > 1) {
        if (c->axis == Axis::world) all[s].push_back(id);
        if (c->axis == Axis::embedding) {
          if (s == 0) first_last[0].push_back(id);
          else if (s == stages - 1) first_last[1].push_back(id);
          else ++open[id];
        }
      }
    }
  }
  if (stages > 1) meet(first_last), meet(all);
  for (auto& pair : channels)
    for (auto& direction : pair) meet(direction);

  for (Id i = 0; i < n; ++i) waiters_at[i + 1] += waiters_at[i];
  waiters.resize(waiters_at[n]);
  std::vector<Id> at(waiters_at.begin(), waiters_at.end() - 1);
  for (int s = 0; s < stages; ++s)
    for (InstrId i = 0; i < static_cast<InstrId>(programs[s].instrs.size()); ++i)
      for (InstrId w : programs[s].instrs[i].waits)
        if (w >= 0 && w < static_cast<InstrId>(programs[s].instrs.size())) waiters[at[begin[s] + w]++] = begin[s] + i;
}

// What runs now: one instruction, or all members of a meeting under the first one's id.
struct Activity {
  Id id;
  const Op* op;
  double left;          // seconds of work at speed 1, at time `since`
  double since, speed;  // speed 0: not yet known
  int version;          // of its event: a changed speed makes the former one void
};

struct Event {
  double time;
  Id id;
  int version;
  bool operator>(const Event& o) const { return time != o.time ? time > o.time : id > o.id; }
};

class Simulator {
 public:
  Simulator(const std::vector<Program>& programs, const TimeModel& model)
      : programs_(programs), model_(model), graph_(programs),
        machines_(model.one_machine() ? 1 : programs.size()), dirty_(machines_.size()),
        arrived_(graph_.members.size()), slot_(graph_.stage.size(), kNone), finished_(graph_.stage.size()) {
    result_.stages.resize(programs.size());
    for (std::size_t s = 0; s < programs.size(); ++s) result_.stages[s].resize(programs[s].instrs.size());
  }

  Simulation run() {
    const Id n = graph_.begin.back();
    for (Id id = 0; id < n; ++id)
      if (graph_.open[id] == 0) ready_.push_back(id);
    start_ready();
    while (!events_.empty()) {
      const double time = events_.top().time;
      while (!events_.empty() && events_.top().time == time) {
        const Event e = events_.top();
        events_.pop();
        const Id slot = slot_[e.id];
        if (slot != kNone && running_[slot].version == e.version) now_ = time, finish(slot);
      }
      start_ready();
    }
    result_.step = {now_};
    if (done_ < n) result_.deadlock = stuck();
    return std::move(result_);
  }

 private:
  const Instr& instr(Id id) const {
    const auto s = graph_.stage[id];
    return programs_[s].instrs[id - graph_.begin[s]];
  }
  Span& span(Id id) { return result_.stages[graph_.stage[id]][id - graph_.begin[graph_.stage[id]]]; }

  template <class F>
  void for_members(Id id, F&& f) const {
    if (graph_.meeting[id] == kNone) return f(id);
    for (Id m : graph_.members[graph_.meeting[id]]) f(m);
  }

  template <class F>
  void for_machines(Id id, F&& f) const {
    if (machines_.size() == 1) return f(std::size_t{0});
    for_members(id, [&](Id m) { f(static_cast<std::size_t>(graph_.stage[m])); });
  }

  void start_ready() {
    while (!ready_.empty()) {
      const Id id = ready_.back();
      ready_.pop_back();
      const Id meeting = graph_.meeting[id];
      if (meeting == kNone) start(id);
      else if (++arrived_[meeting] == static_cast<Id>(graph_.members[meeting].size()))
        start(graph_.members[meeting].front());
    }
    for (std::size_t m : dirty_list_) {
      dirty_[m] = false;
      update(m);
    }
    dirty_list_.clear();
  }

  void start(Id id) {
    Id slot = static_cast<Id>(running_.size());
    if (free_.empty()) running_.emplace_back();
    else slot = free_.back(), free_.pop_back();
    const Op& op = instr(id).op;
    const double seconds = model_.time(op).value;
    if (!(std::isfinite(seconds) && seconds >= 0))  // an infinite one would never finish, nor would we
      throw Error("E0322", Exit::usage,
                  fmt::format("no time can be given to a {}: the time model says {} s", kind_of(op), seconds),
                  "give the device or the link a bandwidth and an efficiency: docs/profiles.md");
    running_[slot] = {id, &op, seconds, now_, 0, 0};
    slot_[id] = slot;
    for_members(id, [&](Id m) { span(m).start = {now_}; });
    for_machines(id, [&](std::size_t m) { machines_[m].push_back(slot), mark(m); });
  }

  void finish(Id slot) {
    const Id id = running_[slot].id;
    for_machines(id, [&](std::size_t m) {
      machines_[m].erase(std::find(machines_[m].begin(), machines_[m].end(), slot));
      mark(m);
    });
    for_members(id, [&](Id m) {
      span(m).finish = {now_};
      finished_[m] = true, ++done_;
      if (graph_.next[m] != kNone) release(graph_.next[m]);
      for (Id w = graph_.waiters_at[m]; w < graph_.waiters_at[m + 1]; ++w) release(graph_.waiters[w]);
    });
    slot_[id] = kNone;
    free_.push_back(slot);
  }

  void release(Id id) {
    if (--graph_.open[id] == 0) ready_.push_back(id);
  }
  void mark(std::size_t machine) {
    if (!dirty_[machine]) dirty_[machine] = true, dirty_list_.push_back(machine);
  }

  // The speed of everything on a machine where something started or finished.
  void update(std::size_t m) {
    for (Id slot : machines_[m]) {
      Activity& a = running_[slot];
      double speed = std::numeric_limits<double>::infinity();
      for_machines(a.id, [&](std::size_t on) { speed = std::min(speed, speed_on(on, a)); });
      if (speed == a.speed) continue;
      a.left -= (now_ - a.since) * a.speed;
      a.since = now_;
      a.speed = speed;
      events_.push({now_ + std::max(a.left, 0.0) / speed, a.id, ++a.version});
    }
  }
  double speed_on(std::size_t m, const Activity& a) {
    active_.clear();
    for (Id slot : machines_[m]) active_.push_back(running_[slot].op);
    return model_.speed(*a.op, active_);
  }

  // The first unfinished instruction of every stream, and what keeps it.
  std::string stuck() const {
    std::string text;
    for (std::size_t s = 0; s < programs_.size(); ++s) {
      std::array<bool, kStreams> seen{};
      for (InstrId i = 0; i < static_cast<InstrId>(programs_[s].instrs.size()); ++i) {
        bool& reported = seen[static_cast<int>(programs_[s].instrs[i].stream)];
        if (reported || finished_[graph_.begin[s] + i]) continue;
        reported = true;
        if (!text.empty()) text += '\n';
        text += describe(programs_[s], i);
        text += reason(graph_.begin[s] + i);
      }
    }
    return text;
  }
  std::string reason(Id id) const {
    const Id first = graph_.begin[graph_.stage[id]];
    for (InstrId w : instr(id).waits)
      if (w < 0 || first + w >= graph_.begin[graph_.stage[id] + 1] || !finished_[first + w])
        return fmt::format(": waits for #{}", w);
    if (graph_.meeting[id] == kNone) return ": has no partner";
    for (Id m : graph_.members[graph_.meeting[id]])
      if (graph_.open[m] > 0 && m != id)
        return ": waits for " + describe(programs_[graph_.stage[m]], m - graph_.begin[graph_.stage[m]]);
    return ": has no partner";
  }

  const std::vector<Program>& programs_;
  const TimeModel& model_;
  Graph graph_;
  std::vector<std::vector<Id>> machines_;  // slots of what runs there
  std::vector<bool> dirty_;
  std::vector<std::size_t> dirty_list_;
  std::vector<Activity> running_;  // by slot
  std::vector<Id> free_, ready_, arrived_, slot_;
  std::vector<bool> finished_;  // by Id
  std::vector<const Op*> active_;
  std::priority_queue<Event, std::vector<Event>, std::greater<>> events_;
  double now_ = 0;
  Id done_ = 0;
  Simulation result_;
};

}  // namespace

Simulation simulate(const std::vector<Program>& programs, const TimeModel& model) {
  return Simulator(programs, model).run();
}

}  // namespace llmplan
