#include "costmodel/fabric.h"

#include <algorithm>
#include <cctype>
#include <charconv>

#include "costmodel/words.h"

namespace llmplan {
namespace {

using std::int64_t;

bool letter(char c) { return std::isalpha(static_cast<unsigned char>(c)) != 0; }
bool digit(char c) { return std::isdigit(static_cast<unsigned char>(c)) != 0; }
bool number_char(char c) { return digit(c) || c == '.'; }

// Where `word` stands in `text` by itself: not inside a longer word or number.
std::size_t find_word(const std::string& text, const std::string& word) {
  for (std::size_t at = 0; (at = text.find(word, at)) != std::string::npos; ++at) {
    const std::size_t end = at + word.size();
    const bool starts = at == 0 || !letter(text[at - 1]);
    const bool ends = end >= text.size() || !(letter(text[end]) || (digit(word.back()) && digit(text[end])));
    if (starts && ends) return at;
  }
  return std::string::npos;
}

void blank_out(std::string& text, std::size_t at, std::size_t size) { std::fill_n(text.begin() + static_cast<std::ptrdiff_t>(at), size, ' '); }

// Units of rates, longest first: bits per second, for networks are sold in bits.
struct Unit { const char* text; double bits; };
constexpr Unit kUnits[] = {{"gbit/s", 1e9}, {"tbit/s", 1e12}, {"gb/s", 1e9}, {"tb/s", 1e12}, {"gbps", 1e9},
                           {"tbps", 1e12},  {"gbit", 1e9},    {"gbe", 1e9},  {"gb", 1e9},    {"g", 1e9}};

// "200gb/s", "100 g", "25gbe": the first rate, taken out of `text`. Only GB/s and TB/s, written so, are bytes.
std::optional<BytesPerSecond> take_rate(std::string& text, const std::string& original) {
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (!digit(text[i]) || (i > 0 && number_char(text[i - 1]))) continue;
    double value = 0;
    const auto [stop, error] = std::from_chars(text.data() + i, text.data() + text.size(), value);
    if (error != std::errc{} || value <= 0) continue;
    const std::size_t end = static_cast<std::size_t>(stop - text.data());
    const std::size_t unit = text.find_first_not_of(" -", end);
    if (unit == std::string::npos) continue;
    for (const Unit& u : kUnits) {
      const std::size_t size = std::char_traits<char>::length(u.text);
      if (text.compare(unit, size, u.text) != 0 || (unit + size < text.size() && letter(text[unit + size]))) continue;
      const std::string written = original.substr(unit, size);
      const bool bytes = written == "GB/s" || written == "TB/s";
      blank_out(text, i, unit + size - i);
      return BytesPerSecond{value * u.bits / (bytes ? 1 : 8)};
    }
  }
  return {};
}

// "8x", "8 x", "x4", "4 nics", "8 ports", "4 rails", "dual", "quad": how many ports a node has; 0: not said.
int64_t take_ports(std::string& text) {
  for (const auto& [word, n] : {std::pair{"dual", 2}, {"quad", 4}, {"octal", 8}})
    for (const char* dash : {"-", " "})
      for (const char* noun : {"port", "rail", "nic"})
        if (const std::string phrase = std::string(word) + dash + noun; text.find(phrase) != std::string::npos) {
          blank_out(text, text.find(phrase), phrase.size());
          return n;
        }
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (!digit(text[i]) || (i > 0 && number_char(text[i - 1]))) continue;
    std::size_t end = i;
    while (end < text.size() && digit(text[end])) ++end;
    if (end - i > 3) continue;
    const int64_t n = std::stoll(text.substr(i, end - i));
    std::size_t after = end;
    while (after < text.size() && text[after] == ' ') ++after;
    const bool cross_after = after < text.size() && text[after] == 'x' && (after + 1 >= text.size() || !letter(text[after + 1]));
    const bool cross_before = i > 0 && text[i - 1] == 'x' && (i < 2 || !letter(text[i - 2]));
    const bool noun = std::ranges::any_of(std::initializer_list<const char*>{"nic", "port", "rail", "hca", "adapter", "card"},
                                          [&](const char* w) { return text.compare(after, std::char_traits<char>::length(w), w) == 0; });
    if (n < 1 || !(cross_after || cross_before || noun)) continue;
    std::size_t last = cross_after ? after + 1 : end;
    if (noun)
      for (last = after; last < text.size() && letter(text[last]);) ++last;
    blank_out(text, cross_before ? i - 1 : i, last - (cross_before ? i - 1 : i));
    return n;
  }
  return 0;
}

bool take_any(std::string& text, std::initializer_list<const char*> words) {
  bool found = false;
  for (const char* word : words)
    for (std::size_t at; (at = find_word(text, word)) != std::string::npos; found = true)
      blank_out(text, at, std::char_traits<char>::length(word));
  return found;
}

}  // namespace

Fabric read_fabric(const std::string& original, const std::string& device, const std::vector<FabricWord>& words) {
  Fabric f;
  std::string text = lower(original);
  for (std::size_t open; (open = text.find('(')) != std::string::npos;) {  // remarks
    const std::size_t close = text.find(')', open);
    blank_out(text, open, (close == std::string::npos ? text.size() : close + 1) - open);
  }
  // A name with a rate in it, such as ndr400, is read before rates are.
  bool rate_in_name = false;
  for (const FabricWord& w : words) {
    const std::size_t at = find_word(text, w.word);
    if (at == std::string::npos || !device.starts_with(w.device)) continue;
    if (!f.word) {
      f.word = &w;
      rate_in_name = digit(w.word.back());
    }
    blank_out(text, at, w.word.size());
  }
  f.port = take_rate(text, original);
  f.ports = take_ports(text);
  f.per_device = take_any(text, {"per gpu", "per device", "per accelerator", "per npu", "per card", "/gpu", "each gpu"});
  const bool per_port = take_any(text, {"per port", "per nic", "per rail", "per link", "nics", "nic", "ports", "port"});
  take_any(text, {"per node", "per server", "per host", "/node", "network", "fabric", "interconnect", "rdma", "between nodes", "inter-node",
                  "internode", "cluster", "with", "and", "via", "over", "of", "total", "aggregate", "rail-optimized", "rail-optimised",
                  "non-blocking", "nonblocking", "fat-tree", "fat tree", "gpudirect", "nvidia", "mellanox", "backend", "aws", "x"});
  if (!f.port && !rate_in_name && f.word) {  // "efa 3200": a bare number beside a kind of network
    for (std::size_t i = 0; i < text.size(); ++i) {
      if (!digit(text[i])) continue;
      std::size_t end = i;
      while (end < text.size() && number_char(text[end])) ++end;
      const double value = std::strtod(text.substr(i, end - i).c_str(), nullptr);
      if (value >= 10 && (end >= text.size() || !letter(text[end]))) {
        f.port = BytesPerSecond{value * 1e9 / 8};
        blank_out(text, i, end - i);
      }
      break;
    }
  }
  if (per_port && f.ports == 0 && f.port) f.per_device = true;  // as many ports as devices, when nothing else is said
  for (std::size_t i = 0; i < text.size();) {
    if (!std::isalnum(static_cast<unsigned char>(text[i]))) { ++i; continue; }
    std::size_t end = i;
    while (end < text.size() && (std::isalnum(static_cast<unsigned char>(text[end])) || text[end] == '-')) ++end;
    f.unread += (f.unread.empty() ? "" : " ") + original.substr(i, end - i);
    i = end;
  }
  return f;
}

std::string set_fabric(Cluster& c, const std::string& text, int64_t devices_per_node, const std::vector<FabricWord>& words) {
  if (text.find_first_not_of(" \t") == std::string::npos) return "";
  const Fabric f = read_fabric(text, c.device.name, words);
  const int64_t devices = std::max<int64_t>(1, devices_per_node);
  if (!f.word && !f.port) return "the network '" + text + "' is not known; priced as the device's usual one, " + c.inter.name;
  const Link usual = c.inter;
  if (f.word) c.inter = f.word->link;
  if (f.port) {
    c.inter.bandwidth = *f.port;
    c.inter.ports = 0;
    if (!f.per_device) set_ports(c.inter, std::max<int64_t>(1, f.ports), devices);
    if (f.ports == 0) c.inter.ports = 0;  // the rate of a whole node, by whatever ports
  } else if (f.word->generic && f.ports == 0) {
    c.inter.bandwidth = usual.bandwidth, c.inter.ports = usual.ports;
  } else {
    set_ports(c.inter, f.ports > 0 ? f.ports : usual.ports, devices);
  }
  c.inter.name = text;
  if (f.word || f.unread.empty()) return "";
  return "of the network '" + text + "' only the rate is known; otherwise priced as " + usual.name;
}

}  // namespace llmplan
