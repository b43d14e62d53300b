// plan.json -> Plan. Strict: whatever llmplan would not have written itself is refused.
#include <algorithm>
#include <charconv>
#include <limits>
#include <sstream>

#include <fmt/format.h>

#include "costmodel/error.h"
#include "costmodel/estimate.h"
#include "costmodel/profiles/node.h"
#include "costmodel/profiles/quantity.h"
#include "planner/build.h"
#include "planner/plan_checksum.h"
#include "planner/plan_fields.h"
#include "planner/plan_file.h"
#include "planner/schedule.h"

namespace llmplan {
namespace plan_file {
namespace {

constexpr const char* kMakeAnother = "make the plan again with `llmplan tune`; plan files are not meant to be edited";

// ---- Values

void read(const Node& n, const std::string& key, bool& v) { v = read_bool(n, key); }
void read(const Node& n, const std::string& key, std::int64_t& v) {
  v = read_integer(n, key, std::numeric_limits<std::int64_t>::min(), std::numeric_limits<std::int64_t>::max());
}
void read(const Node& n, const std::string& key, int& v) {
  v = static_cast<int>(read_integer(n, key, std::numeric_limits<int>::min(), std::numeric_limits<int>::max()));
}
void read(const Node& n, const std::string& key, std::uint64_t& v) {  // seeds use all 64 bits
  require(n, Node::Kind::scalar, key);
  const char* end = n.text.data() + n.text.size();
  const auto [at, error] = std::from_chars(n.text.data(), end, v);
  if (n.quoted || error != std::errc() || at != end)
    fail(n, "E0332", key + " is not an integer from 0 to 2^64 − 1", kMakeAnother);
}
void read(const Node& n, const std::string& key, double& v) { v = read_number(n, key); }
void read(const Node& n, const std::string& key, std::string& v) { v = read_text(n, key); }
template <class Dimension, class Rep>
void read(const Node& n, const std::string& key, Quantity<Dimension, Rep>& q) { read(n, key, q.value); }

// name_of(0), name_of(1), … up to the first value that has no name of its own.
template <class E>
std::vector<std::string> names_of() {
  std::vector<std::string> names;
  for (int i = 0; i < 256; ++i) {
    const std::string_view name = name_of(static_cast<E>(i));
    if (name == "?" || std::find(names.begin(), names.end(), name) != names.end()) break;
    names.emplace_back(name);
  }
  return names;
}

template <class E>
  requires std::is_enum_v<E>
void read(const Node& n, const std::string& key, E& e) {
  const std::string text = read_text(n, key);
  const std::vector<std::string> names = names_of<E>();
  const auto found = std::find(names.begin(), names.end(), text);
  if (found == names.end())
    fail(n, "E0332", fmt::format("{} cannot be '{}'", key, text.substr(0, 60)),
         did_you_mean(text, names, fmt::format("valid: {}", fmt::join(names, ", "))));
  e = static_cast<E>(found - names.begin());
}

void read(const Node& n, const std::string& key, std::vector<std::int64_t>& v) {
  require(n, Node::Kind::list, key);
  v.clear();
  for (const Node& item : n.items) read(item, key, v.emplace_back());
}

void read(const Node& n, const std::string& key, Curve& c) {
  require(n, Node::Kind::list, key);
  c.points.clear();
  for (const Node& point : n.items) {
    require(point, Node::Kind::list, key + " point");
    if (point.items.size() != 2) fail(point, "E0332", key + " has a point without two numbers", kMakeAnother);
    c.points.emplace_back(read_number(point.items[0], key), read_number(point.items[1], key));
  }
}

void read(const Node& n, const std::string& key, std::map<DType, FlopsPerSecond>& peaks) {
  require(n, Node::Kind::map, key);
  peaks.clear();
  for (const auto& [name, value] : n.entries) {
    DType dtype{};
    read(name, key, dtype);
    read(value, key, peaks[dtype]);
  }
}

// An op of that kind with all fields zero.
template <std::size_t I = 0>
Op blank_op(const Node& n, const std::string& kind) {
  if constexpr (I == std::variant_size_v<Op>) {
    fail(n, "E0332", fmt::format("there is no op '{}'", kind.substr(0, 60)), kMakeAnother);
  } else if constexpr (std::is_same_v<std::variant_alternative_t<I, Op>, Collective>) {
    const std::vector<std::string> kinds = names_of<Collective::Kind>();
    const auto k = std::find(kinds.begin(), kinds.end(), kind);
    if (k == kinds.end()) return blank_op<I + 1>(n, kind);
    return Collective{static_cast<Collective::Kind>(k - kinds.begin()), {}, {}, {}};
  } else {
    const Op op{std::in_place_index<I>};
    return kind_of(op) == kind ? op : blank_op<I + 1>(n, kind);
  }
}

void read(const Node& n, const std::string& key, std::vector<MeasuredOp>& ops) {
  require(n, Node::Kind::list, key);
  ops.clear();
  for (const Node& entry : n.items) {
    require(entry, Node::Kind::map, key);
    const Node& kind = required(entry, "op", key);
    MeasuredOp m{blank_op(kind, read_text(kind, "op")), 0, 0, {}};
    std::vector<std::string> keys{"op", "ranks", "threads", "time"};
    std::visit([&](auto& op) {
      for_each_field(op, [&](const char* field, auto& value) {
        keys.emplace_back(field);
        read(required(entry, field, key), field, value);
      });
    }, m.op);
    read(required(entry, "ranks", key), "ranks", m.ranks);
    read(required(entry, "threads", key), "threads", m.threads);
    read(required(entry, "time", key), "time", m.time);
    only_keys(entry, keys, key);
    ops.push_back(std::move(m));
  }
}

void read(const Node& n, const std::string& key, std::vector<Contention>& pairs);
void read(const Node& n, const std::string& key, std::vector<Tier>& tiers);
void read(const Node& n, const std::string& key, std::vector<Part>& parts);

template <class T>
  requires requires { Fields<T>::list; }
void read(const Node& n, const std::string& key, T& v) {
  require(n, Node::Kind::map, key);
  std::vector<std::string> keys;
  for_each<T>([&](const auto& field) { keys.emplace_back(field.key); });
  only_keys(n, keys, key);
  for_each<T>([&](const auto& field) {
    auto& member = v.*field.member;
    if constexpr (std::is_same_v<std::decay_t<decltype(member)>, double>) {
      const Node* value = n.find(field.key);
      if (field.unknown_below_zero && value && value->kind == Node::Kind::null) {
        member = -1;
        return;
      }
    }
    read(required(n, field.key, key), field.key, member);
  });
}

void read(const Node& n, const std::string& key, std::vector<Contention>& pairs) {
  require(n, Node::Kind::list, key);
  pairs.clear();
  for (const Node& item : n.items) read(item, key, pairs.emplace_back());
}

void read(const Node& n, const std::string& key, std::vector<Tier>& tiers) {
  require(n, Node::Kind::list, key);
  if (n.items.size() + 2 > kMaxTiers) fail(n, "E0332", key + " has more entries than a cluster can", kMakeAnother);
  tiers.clear();
  for (const Node& item : n.items) read(item, key, tiers.emplace_back());
}

void read(const Node& n, const std::string& key, std::vector<Part>& parts) {
  require(n, Node::Kind::list, key);
  parts.clear();
  for (const Node& item : n.items) read(item, key, parts.emplace_back());
}

// ---- The whole

void check_schema(const Node& root) {
  constexpr const char* is_plan = "a plan is written by `llmplan tune MODEL -o plan.json`";
  const Node* schema = root.kind == Node::Kind::map ? root.find("schema") : nullptr;
  if (!schema || schema->kind != Node::Kind::scalar) fail(root, "E0330", "this is not a plan: it has no 'schema'", is_plan);
  const std::string& text = schema->text;
  if (schema->quoted && text == kPlanSchema) return;
  const std::string_view family = "llmplan.plan/";
  if (text.compare(0, family.size(), family) != 0)
    fail(*schema, "E0330", fmt::format("this is not a plan: its schema is '{}'", text.substr(0, 60)), is_plan);
  std::int64_t version = -1;
  const char *from = text.data() + family.size(), *end = text.data() + text.size();
  const auto [at, error] = std::from_chars(from, end, version);
  if (error != std::errc() || at != end || version < 0)
    fail(*schema, "E0330", fmt::format("'{}' is no version of the plan format", text.substr(0, 60)), is_plan);
  fail(*schema, "E0331",
       fmt::format("this plan has format {}; this llmplan reads {}", text.substr(0, 60), kPlanSchema),
       version < 1 ? "it was written by an older llmplan; make it again with `llmplan tune`"
                   : "it was written by a newer llmplan; use that one, or make the plan again with this one");
}

// The first slot in which two orders differ: "slot 3 is F2, 1f1b has B0".
std::string first_difference(const std::string& found, const std::string& expected, std::string_view schedule) {
  std::istringstream left(found), right(expected);
  for (int slot = 1;; ++slot) {
    std::string a, b;
    left >> a, right >> b;
    if (a == b && !a.empty()) continue;
    const auto word = [](const std::string& s) { return s.empty() ? "missing" : s.substr(0, 20); };
    return fmt::format("slot {} is {}, {} has {}", slot, word(a), schedule, word(b));
  }
}

void check_compute_order(const Node& n, const Plan& plan) {
  require(n, Node::Kind::list, "compute_order");
  const std::vector<std::string> expected = compute_orders(plan);
  if (n.items.size() != expected.size())
    fail(n, "E0333", fmt::format("compute_order has {} stages, the strategy {}", n.items.size(), expected.size()),
         kMakeAnother);
  for (std::size_t i = 0; i < expected.size(); ++i) {
    const std::string found = read_text(n.items[i], "compute_order");
    if (found != expected[i])
      fail(n.items[i], "E0333",
           fmt::format("compute_order of stage {} is not that of the schedule: {}", i,
                       first_difference(found, expected[i], name_of(plan.strategy.schedule))),
           kMakeAnother);
  }
}

void check_consistent(const Node& root, const Plan& plan) {
  if (const ModelProblem p = find_problem(plan.model); !p.field.empty())
    fail(*root.find("model"), "E0333", p.message, p.hint);
  const Node& strategy = *root.find("strategy");
  const Infeasible broken = check(plan.model, plan.cluster, plan.workload, plan.strategy);
  const Node* split = strategy.find("layers_per_stage");
  if (!broken.constraint.empty())
    fail(broken.constraint == "layers" ? *split : strategy, "E0333", broken.reason, broken.hint);
  if (plan.strategy.layers_per_stage.empty())
    fail(*split, "E0333", "layers_per_stage is empty; a plan states the layers of every stage", kMakeAnother);
}

void check_unedited(const Node& root, const Plan& plan) {
  const Node& sums = *root.find("checksums");
  require(sums, Node::Kind::map, "checksums");
  const auto expected = checksums(plan);
  std::vector<std::string> keys, edited;
  for (const auto& [section, sum] : expected) {
    keys.push_back(section);
    if (read_text(required(sums, section, "checksums"), section) != sum) edited.push_back(section);
  }
  only_keys(sums, keys, "checksums");
  if (!edited.empty())
    fail(*root.find(edited.front()), "E0334",
         fmt::format("{} changed after the plan was made", fmt::join(edited, " and ")),
         "its predictions hold for what it was made from; make a new plan with the values you want:\n"
         "llmplan tune MODEL --tp … --seq … -o plan.json");
}

void check_digest(const Node& n, const Plan& plan) {
  const Infeasible obstacle = why_not_lowerable(plan);
  if (!obstacle.constraint.empty() && plan.digest.empty()) return;  // only an estimate
  const std::string now = obstacle.constraint.empty() ? digest(build(plan).programs) : "none";
  if (now != plan.digest)
    fail(n, "E0335",
         fmt::format("the plan's inputs give program {}, it was made for {}: {}", now,
                     plan.digest.empty() ? "none" : plan.digest,
                     obstacle.constraint.empty() ? "nothing was edited, so another version of llmplan wrote it"
                                                 : obstacle.reason),
         "make the plan again with `llmplan tune`, so that its predictions are those of this version");
}

Plan read_plan(const Node& root) {
  check_schema(root);
  only_keys(root, {"schema", "model", "cluster", "workload", "strategy", "compute_order", "prediction", "digest",
                   "checksums"}, "the plan");
  Plan plan;
  read(required(root, "model", "the plan"), "model", plan.model);
  read(required(root, "cluster", "the plan"), "cluster", plan.cluster);
  read(required(root, "workload", "the plan"), "workload", plan.workload);
  read(required(root, "strategy", "the plan"), "strategy", plan.strategy);
  read(required(root, "prediction", "the plan"), "prediction", plan.prediction);
  plan.digest = read_text(required(root, "digest", "the plan"), "digest");
  required(root, "checksums", "the plan");
  check_consistent(root, plan);
  const Node& order = required(root, "compute_order", "the plan");
  check_unedited(root, plan);  // before anything is computed whose size an edit could have changed
  check_compute_order(order, plan);
  check_digest(*root.find("digest"), plan);
  return plan;
}

}  // namespace

std::vector<std::string> compute_orders(const Plan& plan) {
  std::vector<std::string> orders;
  if (!why_not_lowerable(plan).constraint.empty()) return orders;
  for (int stage = 0; stage < plan.strategy.pp; ++stage)
    orders.push_back(compute_order_text(compute_order(plan.strategy.schedule, stage,
                                                      static_cast<int>(plan.strategy.pp), plan.micro_batches())));
  return orders;
}

}  // namespace plan_file

Plan plan_from_json(const std::string& text, const std::string& file) {
  try {
    return plan_file::read_plan(parse_json(text, file));
  } catch (Error& e) {
    // The readers of profiles report syntax, keys and types as E01xx; in a plan all of these mean one thing.
    if (e.code.compare(0, 3, "E01") == 0) e.code = "E0332";
    if (e.code == "E0332") {
      e.message = "the plan is damaged: " + e.message;
      if (e.hint.find("llmplan tune") == std::string::npos) e.hint += std::string("\n") + plan_file::kMakeAnother;
    }
    throw;
  }
}

}  // namespace llmplan
