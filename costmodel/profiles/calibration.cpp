#include "costmodel/profiles/calibration.h"

#include <cstdlib>
#include <filesystem>
#include <limits>

#include <fmt/format.h>

#include "costmodel/op_fields.h"
#include "costmodel/profiles/profile_fields.h"
#include "costmodel/profiles/profiles.h"
#include "costmodel/profiles/quantity.h"

namespace llmplan {
namespace {

struct FieldText {
  std::string operator()(std::int64_t v) const { return fmt::format("{}", v); }
  std::string operator()(int v) const { return fmt::format("{}", v); }
  std::string operator()(bool v) const { return v ? "true" : "false"; }
  std::string operator()(double v) const { return fmt::format("{}", v); }
  std::string operator()(DType v) const { return std::string(name_of(v)); }
  std::string operator()(Axis v) const { return std::string(name_of(v)); }
  std::string operator()(Bytes v) const { return fmt::format("{} B", v.value); }
};

template <class E>
E read_name(const Node& n, const std::string& key, E last) {
  const std::string text = read_text(n, key);
  std::vector<std::string> names;
  for (int i = 0; i <= static_cast<int>(last); ++i) {
    names.emplace_back(name_of(static_cast<E>(i)));
    if (names.back() == text) return static_cast<E>(i);
  }
  fail(n, "E0112", fmt::format("{} cannot be '{}'", key, text),
       did_you_mean(text, names, fmt::format("valid: {}", fmt::join(names, ", "))));
}

struct FieldReader {
  const Node& map;
  std::vector<std::string>& keys;
  void operator()(const char* key, std::int64_t& v) const {
    v = read_integer(at(key), key, 0, std::numeric_limits<std::int64_t>::max());
  }
  void operator()(const char* key, int& v) const {
    v = static_cast<int>(read_integer(at(key), key, 0, 1'000'000));
  }
  void operator()(const char* key, bool& v) const { v = read_bool(at(key), key); }
  void operator()(const char* key, double& v) const { v = read_number(at(key), key); }
  void operator()(const char* key, DType& v) const { v = read_name(at(key), key, DType::fp64); }
  void operator()(const char* key, Axis& v) const { v = read_name(at(key), key, Axis::world); }
  void operator()(const char* key, Bytes& v) const { v = read_bytes(at(key), key); }

 private:
  const Node& at(const char* key) const {
    keys.push_back(key);
    return required(map, key, "a measured op");
  }
};

// An op of every kind, by what kind_of calls it.
template <std::size_t I = 0>
void add_kinds(std::vector<std::pair<std::string, Op>>& out) {
  if constexpr (I < std::variant_size_v<Op>) {
    std::variant_alternative_t<I, Op> op{};
    if constexpr (std::is_same_v<decltype(op), Collective>) {
      for (int k = 0; k <= static_cast<int>(Collective::Kind::all_to_all); ++k) {
        op.kind = static_cast<Collective::Kind>(k);
        out.emplace_back(kind_of(op), op);
      }
    } else {
      out.emplace_back(kind_of(op), op);
    }
    add_kinds<I + 1>(out);
  }
}

const std::vector<std::pair<std::string, Op>>& kinds() {
  static const auto all = [] {
    std::vector<std::pair<std::string, Op>> out;
    add_kinds(out);
    return out;
  }();
  return all;
}

Op op_by_name(const Node& n) {
  const std::string name = read_text(n, "op");
  std::vector<std::string> names;
  for (const auto& [known, op] : kinds()) {
    if (known == name) return op;
    names.push_back(known);
  }
  fail(n, "E0112", fmt::format("there is no op '{}'", name),
       did_you_mean(name, names, fmt::format("ops: {}", fmt::join(names, ", "))));
}

}  // namespace

std::string to_yaml(const std::vector<MeasuredOp>& measured) {
  if (measured.empty()) return "";
  std::string out = "measured:\n";
  for (const MeasuredOp& m : measured) {
    out += fmt::format("  - {{op: {}", kind_of(m.op));
    std::visit(
        [&](const auto& op) {
          for_each_field(op, [&](const char* key, const auto& v) {
            out += fmt::format(", {}: {}", key, FieldText{}(v));
          });
        },
        m.op);
    out +=
        fmt::format(", ranks: {}, threads: {}, time: {} s}}\n", m.ranks, m.threads, m.time.value);
  }
  return out;
}

std::vector<MeasuredOp> read_measured(const Node& list) {
  require(list, Node::Kind::list, "measured");
  std::vector<MeasuredOp> out;
  out.reserve(list.items.size());
  for (const Node& item : list.items) {
    require(item, Node::Kind::map, "a measured op");
    std::vector<std::string> keys = {"op", "ranks", "threads", "time"};
    MeasuredOp m{op_by_name(required(item, "op", "a measured op")), 1, 1, {}};
    std::visit([&](auto& op) { for_each_field(op, FieldReader{item, keys}); }, m.op);
    only_keys(item, keys, fmt::format("a measured {}", kind_of(m.op)));
    m.ranks = static_cast<int>(
        read_integer(required(item, "ranks", "a measured op"), "ranks", 1, 1'000'000));
    m.threads = static_cast<int>(
        read_integer(required(item, "threads", "a measured op"), "threads", 1, 1'000'000));
    const Node& time = required(item, "time", "a measured op");
    m.time = {read_quantity(time, "time", time_units)};
    if (m.time.value <= 0)
      fail(time, "E0109", "time is 0", "a measured op takes time; calibrate again");
    out.push_back(std::move(m));
  }
  return out;
}

std::string to_yaml(const std::vector<Contention>& pairs) {
  if (pairs.empty()) return "";
  std::string out = "contention:\n";
  for (const Contention& c : pairs)
    out += fmt::format("  - {{work: {}, beside: {}, slowdown: {}}}\n", name_of(c.work), name_of(c.beside), c.slowdown);
  return out;
}

std::vector<Contention> read_contention(const Node& list) {
  require(list, Node::Kind::list, "contention");
  std::vector<Contention> out;
  for (const Node& item : list.items) {
    const char* what = "a pair of ops";
    require(item, Node::Kind::map, what);
    only_keys(item, {"work", "beside", "slowdown"}, what);
    Contention c{read_name(required(item, "work", what), "work", OpClass::transfer),
                 read_name(required(item, "beside", what), "beside", OpClass::transfer), 1};
    const Node& slowdown = required(item, "slowdown", what);
    c.slowdown = read_number(slowdown, "slowdown");
    if (!(c.slowdown >= 1))
      fail(slowdown, "E0109", fmt::format("slowdown is {}", c.slowdown), "nothing runs faster beside something else: at least 1");
    for (const Contention& other : out)
      if (other.work == c.work && other.beside == c.beside)
        fail(item, "E0109", fmt::format("{} beside {} is there twice", name_of(c.work), name_of(c.beside)), "keep one of them");
    out.push_back(c);
  }
  return out;
}

std::string calibration_path() {
  namespace fs = std::filesystem;
  if (const char* cache = std::getenv("XDG_CACHE_HOME"); cache && *cache)
    return (fs::path(cache) / "llmplan/calibration.yaml").string();
  if (const char* home = std::getenv("HOME"); home && *home)
    return (fs::path(home) / ".cache/llmplan/calibration.yaml").string();
  return "calibration.yaml";
}

std::string calibration_to_yaml(const Device& device) {
  return "# Measured by llmplan calibrate; `--cluster local` uses it. Delete it to go back to the "
         "defaults.\n"
         "source: measured on this machine by llmplan calibrate\n" +
         to_yaml(device) + to_yaml(device.contention) + to_yaml(device.measured);
}

}  // namespace llmplan
