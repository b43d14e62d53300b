#include "costmodel/profiles/quantity.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <limits>

#include <fmt/format.h>

#include "costmodel/profiles/profiles.h"
#include "costmodel/words.h"

namespace llmplan {

const std::vector<Unit> byte_units = {{"GiB", 0x1p30}, {"MiB", 0x1p20}, {"KiB", 0x1p10},
                                      {"TiB", 0x1p40}, {"PiB", 0x1p50}, {"B", 1},
                                      {"kB", 1e3},     {"KB", 1e3},     {"MB", 1e6},
                                      {"GB", 1e9},     {"TB", 1e12},    {"PB", 1e15}};
const std::vector<Unit> rate_units = {{"GB/s", 1e9},       {"MB/s", 1e6},       {"TB/s", 1e12},
                                      {"kB/s", 1e3},       {"B/s", 1},          {"GiB/s", 0x1p30},
                                      {"MiB/s", 0x1p20},   {"TiB/s", 0x1p40},   {"Gbit/s", 1e9 / 8},
                                      {"Mbit/s", 1e6 / 8}, {"Tbit/s", 1e12 / 8}};
const std::vector<Unit> flops_units = {
    {"TFLOP/s", 1e12}, {"GFLOP/s", 1e9}, {"PFLOP/s", 1e15}, {"MFLOP/s", 1e6}, {"FLOP/s", 1}};
const std::vector<Unit> time_units = {
    {"us", 1e-6}, {"\u00b5s", 1e-6}, {"ms", 1e-3}, {"s", 1}, {"ns", 1e-9}};

std::string did_you_mean(const std::string& word, const std::vector<std::string>& names,
                         const std::string& otherwise) {
  std::string out;
  for (const std::string& n : nearest(word, names))
    out += fmt::format("{}'{}'", out.empty() ? "did you mean " : ", ", n);
  return out.empty() ? otherwise : out + "?";
}

namespace {

std::string kind_name(const Node& n) {
  switch (n.kind) {
    case Node::Kind::null:
      return "nothing";
    case Node::Kind::scalar:
      return n.quoted ? "text" : fmt::format("'{}'", n.text.substr(0, 60));
    case Node::Kind::list:
      return "a list";
    case Node::Kind::map:
      return "a mapping";
  }
  return "?";
}

bool is_digit(char c) { return c >= '0' && c <= '9'; }

// The length of the decimal number at the start of `s`: -?digits[.digits][e±digits]; 0 if there is
// none.
std::size_t number_length(const std::string& s) {
  std::size_t i = !s.empty() && (s[0] == '-' || s[0] == '+');
  const std::size_t digits = i;
  while (i < s.size() && is_digit(s[i])) ++i;
  if (i == digits) return 0;
  if (i + 1 < s.size() && s[i] == '.' && is_digit(s[i + 1])) {
    ++i;
    while (i < s.size() && is_digit(s[i])) ++i;
  }
  if (i < s.size() && (s[i] == 'e' || s[i] == 'E')) {
    std::size_t e = i + 1;
    if (e < s.size() && (s[e] == '+' || s[e] == '-')) ++e;
    if (e < s.size() && is_digit(s[e])) {
      while (e < s.size() && is_digit(s[e])) ++e;
      i = e;
    }
  }
  return i;
}

// Numbers that YAML readers of different ages understand differently.
void refuse_surprises(const Node& n, const std::string& what) {
  const std::string& s = n.text;
  const std::size_t first = !s.empty() && (s[0] == '-' || s[0] == '+');
  if (s.size() > first + 1 && s[first] == '0' && is_digit(s[first + 1]))
    fail(n, "E0108", fmt::format("{} has a leading zero, which some read as octal", what),
         "write the number without it");
  if (s.size() > first + 1 && s[first] == '0' &&
      (s[first + 1] == 'x' || s[first + 1] == 'o' || s[first + 1] == 'b'))
    fail(n, "E0108", fmt::format("{} is not a decimal number", what), "write it in decimal");
  if (s.find('_') != std::string::npos && is_digit(s[first]))
    fail(n, "E0108", fmt::format("{} has underscores between its digits", what),
         "write the digits without them");
  if (s.find(':') != std::string::npos && is_digit(s[first]))
    fail(n, "E0108", fmt::format("{} has a colon, which some read as base 60", what),
         "write a decimal number");
  if (first && s[0] == '+')
    fail(n, "E0108", fmt::format("{} starts with '+'", what), "write the number without it");
  const std::string l = lower(s);
  for (const char* bad : {"nan", ".nan", "inf", ".inf", "-inf", "-.inf", "infinity", "-infinity"})
    if (l == bad) fail(n, "E0109", fmt::format("{} is {}", what, s), "give a finite number");
}

long double to_number(const std::string& s) {
  long double v = 0;
  const auto [end, error] = std::from_chars(s.data(), s.data() + s.size(), v);
  if (error == std::errc::result_out_of_range) {
    // Too large or too small to tell apart here: a negative exponent means it is next to zero.
    const std::size_t e = s.find_first_of("eE");
    return e != std::string::npos && e + 1 < s.size() && s[e + 1] == '-' ? 0.0L : HUGE_VALL;
  }
  return v;
}

const Node& scalar(const Node& n, const std::string& what, const char* example) {
  if (n.kind != Node::Kind::scalar)
    fail(n, "E0107", fmt::format("{} should be {}, not {}", what, example, kind_name(n)),
         fmt::format("give {}", example));
  return n;
}

long double quantity(const Node& n, const std::string& what, const std::vector<Unit>& units) {
  const std::string example = fmt::format("a number and a unit, such as '80 {}'", units[0].name);
  scalar(n, what, example.c_str());
  refuse_surprises(n, what);
  const std::size_t length = number_length(n.text);
  if (length == 0)
    fail(n, "E0107", fmt::format("{} should be {}, not {}", what, example, kind_name(n)),
         fmt::format("give {}", example));
  const long double v = to_number(n.text.substr(0, length));
  std::string unit = n.text.substr(length);
  if (!unit.empty() && unit[0] == ' ') unit.erase(0, 1);
  std::vector<std::string> names;
  for (const Unit& u : units) names.push_back(u.name);
  const auto known = std::find(names.begin(), names.end(), unit);
  if (known == names.end()) {
    const std::string all = fmt::format("known units: {}", fmt::join(names, ", "));
    fail(n, "E0111",
         unit.empty() ? fmt::format("{} has no unit", what)
                      : fmt::format("'{}' is not a unit of {}", unit, what),
         unit.empty() ? fmt::format("{}; for example '{} {}'", all, n.text, units[0].name)
                      : did_you_mean(unit, names, all));
  }
  if (n.text[0] == '-')
    fail(n, "E0109", fmt::format("{} is negative", what), "give a number that is not");
  const long double factor = units[static_cast<std::size_t>(known - names.begin())].factor;
  return factor < 1 ? v / std::round(1 / factor) : v * factor;  // 1e-6 is no binary number, 1e6 is
}

}  // namespace

double read_quantity(const Node& n, const std::string& what, const std::vector<Unit>& units) {
  const long double v = quantity(n, what, units);
  if (v > 1e30L) fail(n, "E0109", fmt::format("{} is too large", what), "is the unit right?");
  return static_cast<double>(v);
}

Bytes read_bytes(const Node& n, const std::string& what) {
  const long double v = quantity(n, what, byte_units);
  if (v > 0x1p62L)
    fail(n, "E0109", fmt::format("{} is too large", what),
         "the largest size is 4096 PiB; is the unit right?");
  return {static_cast<std::int64_t>(std::round(v))};
}

std::int64_t read_integer(const Node& n, const std::string& what, std::int64_t least,
                          std::int64_t most) {
  scalar(n, what, "a whole number");
  refuse_surprises(n, what);
  if (n.quoted || number_length(n.text) != n.text.size())
    fail(n, "E0107", fmt::format("{} should be a whole number, not {}", what, kind_name(n)),
         "give digits only, without quotes or unit");
  if (n.text.find_first_of(".eE") != std::string::npos)
    fail(n, "E0109", fmt::format("{} should be a whole number, not {}", what, n.text),
         "give digits only");
  std::int64_t v = 0;
  const auto [end, error] = std::from_chars(n.text.data(), n.text.data() + n.text.size(), v);
  if (error != std::errc{} || v < least || v > most) {
    const bool negative = n.text[0] == '-';
    fail(n, "E0109",
         fmt::format("{} is {}, which is {}", what, n.text.substr(0, 40),
                     negative                            ? (least < 0 ? "too small" : "negative")
                     : v < least && error == std::errc{} ? "too small"
                                                         : "too large"),
         most == std::numeric_limits<std::int64_t>::max()
             ? fmt::format("give {} or more", least)
             : fmt::format("valid: {} to {}", least, most));
  }
  return v;
}

double read_number(const Node& n, const std::string& what) {
  scalar(n, what, "a number");
  refuse_surprises(n, what);
  if (n.quoted || number_length(n.text) != n.text.size())
    fail(n, "E0107", fmt::format("{} should be a number, not {}", what, kind_name(n)),
         "give a decimal number, without quotes or unit");
  const long double v = to_number(n.text);
  if (!(std::fabs(v) <= 1e300L))
    fail(n, "E0109", fmt::format("{} is too large", what), "give a number below 1e300");
  return static_cast<double>(v);
}

bool read_bool(const Node& n, const std::string& what) {
  scalar(n, what, "true or false");
  if (!n.quoted && n.text == "true") return true;
  if (!n.quoted && n.text == "false") return false;
  const std::string l = lower(n.text);
  for (const char* surprise : {"yes", "no", "on", "off", "y", "n", "true", "false", "1", "0"})
    if (l == surprise) {
      const bool yes = l == "yes" || l == "on" || l == "y" || l == "true" || l == "1";
      fail(n, "E0108",
           fmt::format("{} is {}, which is not a boolean in every YAML", what,
                       n.quoted ? "quoted" : fmt::format("'{}'", n.text)),
           fmt::format("write {}", yes ? "true" : "false"));
    }
  fail(n, "E0107", fmt::format("{} should be true or false, not {}", what, kind_name(n)),
       "write true or false");
}

std::string read_text(const Node& n, const std::string& what) {
  scalar(n, what, "text");
  const std::string l = lower(n.text);
  for (const char* surprise : {"yes", "no", "on", "off"})
    if (!n.quoted && l == surprise)
      fail(n, "E0108", fmt::format("{} is '{}', which some read as a boolean", what, n.text),
           "put it in quotes if it is meant as text");
  return n.text;
}

void require(const Node& n, Node::Kind kind, const std::string& what) {
  if (n.kind == kind) return;
  const char* wanted = kind == Node::Kind::map    ? "a mapping (`key: value` lines)"
                       : kind == Node::Kind::list ? "a list"
                                                  : "a single value";
  fail(n, "E0107", fmt::format("{} should be {}, not {}", what, wanted, kind_name(n)),
       fmt::format("write {}", wanted));
}

void only_keys(const Node& map, const std::vector<std::string>& keys, const std::string& where) {
  for (const auto& [key, value] : map.entries) {
    if (std::find(keys.begin(), keys.end(), key.text) != keys.end()) continue;
    fail(key, "E0105", fmt::format("unknown key '{}' in {}", key.text.substr(0, 80), where),
         did_you_mean(key.text, keys,
                      keys.size() > 24 ? "docs/profiles.md says which keys there are"
                                       : fmt::format("known keys: {}", fmt::join(keys, ", "))));
  }
}

const Node& required(const Node& map, const std::string& key, const std::string& where) {
  const Node* n = map.find(key);
  if (!n || n->kind == Node::Kind::null)
    fail(n ? *n : map, "E0106", fmt::format("{} lacks '{}'", where, key),
         fmt::format("add a line `{}: …`", key));
  return *n;
}

Bytes parse_bytes(const std::string& text) {
  Node n;
  n.kind = Node::Kind::scalar;
  n.text = text;
  return read_bytes(n, fmt::format("'{}'", text.substr(0, 60)));
}

std::int64_t parse_count(const std::string& text) {
  static const std::vector<Unit> suffixes = {{"", 1},    {"K", 1e3}, {"k", 1e3}, {"M", 1e6},
                                             {"B", 1e9}, {"G", 1e9}, {"T", 1e12}};
  const auto bad = [&](std::string code, std::string message) {
    throw Error(std::move(code), Exit::usage, std::move(message),
                "give a whole number, or one with K, M, B or T: '4096', '1.5M', '100B'");
  };
  const std::string shown = text.substr(0, 60);
  const std::size_t length = number_length(text);
  if (length == 0 || !is_digit(text[0]))
    bad(text[0] == '-' && length ? "E0109" : "E0107", fmt::format("'{}' is not a count", shown));
  if (length > 1 && text[0] == '0' && is_digit(text[1]))
    bad("E0108", fmt::format("'{}' has a leading zero", shown));
  for (const Unit& u : suffixes) {
    if (text.substr(length) != u.name) continue;
    const long double v = to_number(text.substr(0, length)) * static_cast<long double>(u.factor),
                      whole = std::round(v);
    if (v > 0x1p62L) bad("E0109", fmt::format("'{}' is too large", shown));
    // 1.1T is 1.1e12 exactly in decimal; in binary it may be off by a rounding.
    if (std::fabs(v - whole) > 1e-9L * std::max(1.0L, whole))
      bad("E0109", fmt::format("'{}' is not a whole number", shown));
    return static_cast<std::int64_t>(whole);
  }
  bad("E0111", fmt::format("'{}' is not a suffix of a count", text.substr(length, 20)));
  return 0;
}

}  // namespace llmplan
