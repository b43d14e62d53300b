#include "costmodel/profiles/profile_fields.h"

#include <array>
#include <cmath>
#include <filesystem>

#include <fmt/format.h>

#include "costmodel/op_fields.h"
#include "costmodel/profiles/calibration.h"
#include "costmodel/profiles/profiles.h"
#include "costmodel/profiles/quantity.h"

namespace llmplan {

const std::vector<ProfileField<Device>>& device_fields() {
  static const std::vector<ProfileField<Device>> fields = {
      {"name", &Device::name},
      {"cpu", &Device::cpu},
      {"cores", &Device::cores},
      {"memory", &Device::memory},
      {"reserve", &Device::reserve},
      {"peak", &Device::peak},
      {"vector_peak", &Device::vector_peak},
      {"memory_bandwidth", &Device::memory_bandwidth},
      {"gemm_efficiency", &Device::gemm_efficiency},
      {"attention_efficiency", &Device::attention_efficiency},
      {"fa2_rate", &Device::fa2_rate},
      {"memory_efficiency", &Device::memory_efficiency},
      {"launch", &Device::launch},
      {"sms", &Device::sms},
      {"host_bandwidth", &Device::host_bandwidth},
      {"price_per_hour", &Device::price_per_hour},
  };
  return fields;
}

const std::vector<ProfileField<Link>>& link_fields() {
  static const std::vector<ProfileField<Link>> fields = {
      {"name", &Link::name},
      {"bandwidth", &Link::bandwidth},
      {"latency", &Link::latency},
      {"efficiency", &Link::efficiency},
      {"setup", &Link::setup},
      {"reduces_in_switch", &Link::reduces_in_switch},
      {"peers", &Link::peers},
      {"peer_stores", &Link::peer_stores},
  };
  return fields;
}

namespace {

// A number or `{value: …, source: …}`. Returns the number's node; refuses one that nobody vouches
// for.
const Node& sourced_value(const Node& n, const std::string& what, bool sourced) {
  if (n.kind == Node::Kind::map) {
    only_keys(n, {"value", "source"}, what);
    if (n.find("source") && !read_text(*n.find("source"), "source").empty()) sourced = true;
    const Node& value = required(n, "value", what);
    if (!sourced)
      fail(n, "E0114", fmt::format("{} has no source", what),
           "write `{value: …, source: where it comes from}`");
    return value;
  }
  if (!sourced)
    fail(n, "E0114", fmt::format("{} has no source", what),
         "write `{value: …, source: where it comes from}`, or a `source:` beside it for all");
  return n;
}

Curve read_curve(const Node& n, const std::string& what) {
  Curve curve;
  if (n.kind == Node::Kind::scalar) {
    const double y = read_number(n, what);
    if (!(y > 0 && y <= 2))
      fail(n, "E0109", fmt::format("{} is {}", what, y),
           "an efficiency lies above 0 and, but for tuning of the peak, below 1");
    curve.points = {{1, y}};
    return curve;
  }
  require(n, Node::Kind::list, what + ", a curve of [x, y] pairs,");
  if (n.items.empty())
    fail(n, "E0106", fmt::format("{} has no points", what), "write one number, or [[x, y], …]");
  for (const Node& item : n.items) {
    require(item, Node::Kind::list, "a point of " + what);
    if (item.items.size() != 2)
      fail(item, "E0107", fmt::format("a point of {} has {} numbers", what, item.items.size()),
           "write [x, y]");
    const double x = read_number(item.items[0], "x"), y = read_number(item.items[1], "y");
    if (!(x > 0) || (!curve.points.empty() && x <= curve.points.back().first))
      fail(item.items[0], "E0109", fmt::format("x of {} does not grow", what),
           "list the points by x, ascending, from above 0");
    if (!(y > 0 && y <= 2))
      fail(item.items[1], "E0109", fmt::format("{} is {}", what, y),
           "an efficiency lies above 0 and, but for tuning of the peak, below 1");
    curve.points.emplace_back(x, y);
  }
  return curve;
}

DType read_dtype(const Node& n, const std::string& text) {
  std::vector<std::string> names;
  for (int i = 0; i <= static_cast<int>(DType::fp64); ++i) {
    names.emplace_back(name_of(static_cast<DType>(i)));
    if (names.back() == text) return static_cast<DType>(i);
  }
  fail(n, "E0112", fmt::format("'{}' is not a number format", text),
       did_you_mean(text, names, fmt::format("valid: {}", fmt::join(names, ", "))));
}

// Reads one value; numbers need a source.
struct Read {
  const Node& n;
  const std::string what;
  bool sourced;
  const Node& number() const { return sourced_value(n, what, sourced); }

  void into(std::string& to) const { to = read_text(n, what); }
  void into(bool& to) const { to = read_bool(n, what); }
  void into(int& to) const { to = static_cast<int>(read_integer(number(), what, 0, 1'000'000)); }
  void into(double& to) const {
    to = read_number(number(), what);
    if (to < 0) fail(n, "E0109", fmt::format("{} is negative", what), "give a number that is not");
  }
  void into(Bytes& to) const { to = read_bytes(number(), what); }
  void into(BytesPerSecond& to) const { to = {positive(rate_units)}; }
  void into(FlopsPerSecond& to) const { to = {positive(flops_units)}; }
  void into(Seconds& to) const { to = {read_quantity(number(), what, time_units)}; }
  void into(Curve& to) const {
    if (n.kind != Node::Kind::map) {
      to = read_curve(sourced_value(n, what, sourced), what);
      return;
    }
    only_keys(n, {"points", "value", "source"}, what);
    const bool own = sourced || n.find("source");
    if (!own)
      sourced_value(n.find("points") ? *n.find("points") : required(n, "value", what), what, false);
    to = read_curve(n.find("points") ? *n.find("points") : required(n, "value", what), what);
  }
  void into(std::map<DType, FlopsPerSecond>& to) const {
    require(n, Node::Kind::map, what);
    const bool own = sourced || n.find("source");
    to.clear();
    for (const auto& [key, value] : n.entries) {
      if (key.text == "source") continue;
      Read{value, what + " " + key.text, own}.into(to[read_dtype(key, key.text)]);
    }
  }

 private:
  double positive(const std::vector<Unit>& units) const {
    const Node& at = number();
    const double v = read_quantity(at, what, units);
    if (v == 0)
      fail(at, "E0109", fmt::format("{} is 0", what), "leave the line out if it is not known");
    return v;
  }
};

template <class T>
T read_fields(const Node& n, const std::vector<ProfileField<T>>& fields,
              std::vector<std::string> more, bool sourced, const std::string& where, T out) {
  require(n, Node::Kind::map, where);
  more.push_back("source");
  for (const auto& f : fields) more.push_back(f.key);
  only_keys(n, more, where);
  if (const Node* s = n.find("source")) sourced = !read_text(*s, "source").empty() || sourced;
  for (const auto& f : fields) {
    const Node* value = n.find(f.key);
    if (!value || value->kind == Node::Kind::null) continue;
    std::visit([&](auto member) { Read{*value, f.key, sourced}.into(out.*member); }, f.member);
  }
  return out;
}

// Shortest text that reads back as the same number.
std::string exact(double v) { return fmt::format("{}", v); }
std::string quoted(const std::string& s) {
  std::string out = "\"";
  for (char c : s) {
    if (c == '"' || c == '\\') out += '\\';
    out += c;
  }
  return out + '"';
}
std::string curve_text(const Curve& c) {
  std::string out = "[";
  for (const auto& [x, y] : c.points)
    out += fmt::format("{}[{}, {}]", out.size() > 1 ? ", " : "", exact(x), exact(y));
  return out + "]";
}

struct Write {
  std::string& out;
  const char* key;
  void line(const std::string& text) const { out += fmt::format("{}: {}\n", key, text); }
  void operator()(const std::string& v) const { line(quoted(v)); }
  void operator()(bool v) const { line(v ? "true" : "false"); }
  void operator()(int v) const {
    if (v) line(fmt::format("{}", v));
  }
  void operator()(double v) const {
    if (v != 0) line(exact(v));
  }
  void operator()(Bytes v) const {
    if (v.value) line(fmt::format("{} B", v.value));
  }
  void operator()(BytesPerSecond v) const {
    if (v.value > 0) line(exact(v.value) + " B/s");
  }
  void operator()(FlopsPerSecond v) const {
    if (v.value > 0) line(exact(v.value) + " FLOP/s");
  }
  void operator()(Seconds v) const {
    if (v.value > 0) line(exact(v.value) + " s");
  }
  void operator()(const Curve& v) const {
    if (!v.points.empty()) line(curve_text(v));
  }
  void operator()(const std::map<DType, FlopsPerSecond>& v) const {
    if (v.empty()) return;
    out += fmt::format("{}:\n", key);
    for (const auto& [type, rate] : v)
      out += fmt::format("  {}: {} FLOP/s\n", name_of(type), exact(rate.value));
  }
};

}  // namespace

Device read_device_fields(const Node& n, const std::vector<std::string>& more_keys, bool sourced,
                          Device base) {
  return read_fields(n, device_fields(), more_keys, sourced, "a device", std::move(base));
}
Link read_link_fields(const Node& n, const std::vector<std::string>& more_keys, bool sourced,
                      Link base) {
  return read_fields(n, link_fields(), more_keys, sourced, "a link", std::move(base));
}

std::string to_yaml(const Device& device) {
  std::string out;
  for (const auto& f : device_fields())
    std::visit([&](auto member) { Write{out, f.key}(device.*member); }, f.member);
  return out;
}

}  // namespace llmplan
