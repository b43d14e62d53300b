#include "executor/safetensors.h"

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <set>

#include "costmodel/error.h"
#include "executor/bf16.h"

namespace llmplan {
namespace {

constexpr std::int64_t kMaxHeader = 100'000'000;  // the format's own limit

[[noreturn]] void corrupt(const std::string& path, const std::string& what) {
  throw Error("E0406", Exit::data, fmt::format("{} is not a sound safetensors file: {}", path, what),
              "the file is damaged or incomplete: copy or write it again");
}

std::int64_t bits_of(const std::string& dtype) {
  static const std::map<std::string, std::int64_t> bits = {
      {"F64", 64}, {"I64", 64}, {"U64", 64}, {"C64", 64}, {"F32", 32}, {"I32", 32}, {"U32", 32}, {"F16", 16},
      {"BF16", 16}, {"I16", 16}, {"U16", 16}, {"I8", 8}, {"U8", 8}, {"BOOL", 8}, {"F8_E4M3", 8}, {"F8_E5M2", 8},
      {"F8_E8M0", 8}, {"F6_E2M3", 6}, {"F6_E3M2", 6}, {"F4", 4}};
  auto found = bits.find(dtype);
  return found == bits.end() ? 0 : found->second;
}

// Duplicate keys are forbidden, and nlohmann would keep the last one without a word.
nlohmann::json parse_header(const std::string& text, const std::string& path) {
  std::vector<std::set<std::string>> keys;
  std::string twice;
  auto watch = [&](int, nlohmann::json::parse_event_t event, nlohmann::json& value) {
    using Event = nlohmann::json::parse_event_t;
    if (event == Event::object_start) keys.emplace_back();
    if (event == Event::object_end) keys.pop_back();
    if (event == Event::key && !keys.back().insert(value.get<std::string>()).second) twice = value.get<std::string>();
    return true;
  };
  try {
    auto json = nlohmann::json::parse(text, watch);
    if (!twice.empty()) corrupt(path, fmt::format("'{}' stands twice in the header", twice));
    return json;
  } catch (const nlohmann::json::exception& e) {
    corrupt(path, fmt::format("its header is not JSON ({})", e.what()));
  }
}

float half_to_float(std::uint16_t h) {
  int exponent = (h >> 10) & 31;
  int mantissa = h & 1023;
  float sign = h & 0x8000 ? -1.f : 1.f;
  if (exponent == 31) return mantissa ? NAN : sign * INFINITY;
  return sign * (exponent ? std::ldexp(1024.f + static_cast<float>(mantissa), exponent - 25)
                          : std::ldexp(static_cast<float>(mantissa), -24));
}

template <class T>
void convert(const std::vector<std::byte>& raw, std::span<float> out, auto&& to_float) {
  for (std::size_t i = 0; i < out.size(); ++i) {
    T v;
    std::memcpy(&v, raw.data() + i * sizeof v, sizeof v);
    out[i] = to_float(v);
  }
}

}  // namespace

std::int64_t SafeTensor::elements() const {
  std::int64_t n = 1;
  for (std::int64_t d : shape) n *= d;
  return n;
}

SafeTensors::SafeTensors(const std::string& path) : file_(path) {
  std::int64_t have = file_.size();
  if (have < 8) corrupt(path, fmt::format("{} bytes are too few", have));
  std::uint64_t n = 0;
  file_.read(0, std::as_writable_bytes(std::span(&n, 1)));
  if (n > static_cast<std::uint64_t>(std::min(kMaxHeader, have - 8)))
    corrupt(path, fmt::format("its header claims {} bytes, the file has {}", n, have));
  std::string text(n, '\0');
  file_.read(8, std::as_writable_bytes(std::span(text)));
  if (text.empty() || text[0] != '{') corrupt(path, "its header does not start with '{'");
  auto header = parse_header(text, path);
  data_ = 8 + static_cast<std::int64_t>(n);

  try {
    for (auto& [name, entry] : header.items()) {
      if (name == "__metadata__") {
        metadata_ = entry.get<std::map<std::string, std::string>>();
        continue;
      }
      SafeTensor t{name, entry.at("dtype").get<std::string>(), {}, 0, 0};
      std::int64_t bits = bits_of(t.dtype);
      if (bits == 0) corrupt(path, fmt::format("tensor '{}' has unknown type {}", name, t.dtype));
      for (auto& d : entry.at("shape")) {
        auto size = d.get<std::uint64_t>();
        if (!d.is_number_unsigned() || __builtin_mul_overflow(bits, static_cast<std::int64_t>(size), &bits) ||
            size > (std::uint64_t{1} << 62))
          corrupt(path, fmt::format("tensor '{}' has an impossible shape", name));
        t.shape.push_back(static_cast<std::int64_t>(size));
      }
      auto& offsets = entry.at("data_offsets");
      if (offsets.size() != 2 || !offsets[0].is_number_unsigned() || !offsets[1].is_number_unsigned())
        corrupt(path, fmt::format("tensor '{}' has bad data_offsets", name));
      t.begin = offsets[0].get<std::int64_t>();
      t.end = offsets[1].get<std::int64_t>();
      if (t.begin < 0 || t.end < t.begin || bits % 8 != 0 || t.end - t.begin != bits / 8)
        corrupt(path, fmt::format("tensor '{}' needs {} bytes and claims [{}, {})", name, bits / 8, t.begin, t.end));
      tensors_.push_back(std::move(t));
    }
  } catch (const nlohmann::json::exception& e) {
    corrupt(path, fmt::format("its header has unexpected entries ({})", e.what()));
  }

  std::sort(tensors_.begin(), tensors_.end(),
            [](auto& a, auto& b) { return std::pair(a.begin, a.end) < std::pair(b.begin, b.end); });
  std::int64_t at = 0;
  for (auto& t : tensors_) {
    if (t.begin != at) corrupt(path, fmt::format("tensor '{}' starts at {}, expected {}", t.name, t.begin, at));
    at = t.end;
  }
  if (data_ + at != have)
    corrupt(path, fmt::format("its tensors end at byte {}, the file has {}", data_ + at, have));
}

const SafeTensor* SafeTensors::find(const std::string& name) const {
  for (auto& t : tensors_)
    if (t.name == name) return &t;
  return nullptr;
}

std::vector<float> SafeTensors::read(const SafeTensor& t) const {
  std::vector<float> out(static_cast<std::size_t>(t.elements()));
  read(t, 0, out);
  return out;
}

void SafeTensors::read(const SafeTensor& t, std::int64_t first, std::span<float> out) const {
  std::int64_t width = bits_of(t.dtype) / 8;
  if (t.dtype == "F32") return file_.read(data_ + t.begin + first * width, std::as_writable_bytes(out));
  std::vector<std::byte> raw(out.size() * static_cast<std::size_t>(width));
  file_.read(data_ + t.begin + first * width, raw);
  if (t.dtype == "F64")
    convert<double>(raw, out, [](double v) { return static_cast<float>(v); });
  else if (t.dtype == "BF16")
    convert<std::uint16_t>(raw, out, from_bf16);
  else if (t.dtype == "F16")
    convert<std::uint16_t>(raw, out, half_to_float);
  else
    corrupt(path(), fmt::format("tensor '{}' is {}, and weights are F32, F64, BF16 or F16", t.name, t.dtype));
}

std::vector<std::int64_t> SafeTensors::read_integers(const SafeTensor& t) const {
  auto n = static_cast<std::size_t>(t.elements());
  std::vector<std::byte> raw(static_cast<std::size_t>(t.end - t.begin));
  file_.read(data_ + t.begin, raw);
  std::vector<std::int64_t> out(n);
  auto copy = [&]<class T>(T) {
    for (std::size_t i = 0; i < n; ++i) {
      T v;
      std::memcpy(&v, raw.data() + i * sizeof v, sizeof v);
      out[i] = v;
    }
  };
  if (t.dtype == "I64") copy(std::int64_t{});
  else if (t.dtype == "I32") copy(std::int32_t{});
  else if (t.dtype == "U8") copy(std::uint8_t{});
  else corrupt(path(), fmt::format("tensor '{}' is {}, and integers were expected", t.name, t.dtype));
  return out;
}

std::uint64_t SafeTensors::checksum() const {
  Checksum sum;
  std::vector<std::byte> block(std::size_t{1} << 20);
  std::int64_t end = file_.size();
  for (std::int64_t at = data_; at < end;) {
    auto n = static_cast<std::size_t>(std::min<std::int64_t>(static_cast<std::int64_t>(block.size()), end - at));
    file_.read(at, std::span(block).first(n));
    sum.add(std::span(block).first(n));
    at += static_cast<std::int64_t>(n);
  }
  return sum.value();
}

void write_safetensors(const std::string& path, const std::vector<FloatTensor>& tensors,
                       std::map<std::string, std::string> metadata,
                       const std::function<void(std::size_t, std::int64_t, std::span<float>)>& fill) {
  // The checksum is known only after the data; its place in the header is kept by zeros.
  auto header = [&](const std::string& checksum) {
    metadata["checksum"] = checksum;
    nlohmann::json json;
    json["__metadata__"] = metadata;
    std::int64_t at = 0;
    for (auto& t : tensors) {
      std::int64_t size = 4;
      for (std::int64_t d : t.shape) size *= d;
      json[t.name] = {{"dtype", "F32"}, {"shape", t.shape}, {"data_offsets", {at, at + size}}};
      at += size;
    }
    std::string text = json.dump();
    text.resize((text.size() + 7) / 8 * 8, ' ');  // data starts at a multiple of 8
    std::uint64_t n = text.size();
    return std::string(reinterpret_cast<const char*>(&n), 8) + text;
  };
  AtomicFile file(path);
  file.write(header(hex(0)));
  // The data's checksum runs over whole words of 8 bytes: an odd element waits for its neighbour.
  Checksum sum;
  std::vector<float> values, odd;
  auto write_piece = [&](std::size_t i, std::int64_t first, std::int64_t n) {
    values.resize(static_cast<std::size_t>(n));
    fill(i, first, values);
    file.write(std::as_bytes(std::span(values)));
    std::span<const float> rest = values;
    if (!odd.empty() && !rest.empty()) {
      odd.push_back(rest[0]);
      rest = rest.subspan(1);
      sum.add(std::as_bytes(std::span(odd)));
      odd.clear();
    }
    sum.add(std::as_bytes(rest.first(rest.size() / 2 * 2)));
    if (rest.size() % 2) odd.push_back(rest.back());
  };
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    std::int64_t n = 1;
    for (std::int64_t d : tensors[i].shape) n *= d;
    for (std::int64_t first = 0; first < n; first += kPiece) write_piece(i, first, std::min(kPiece, n - first));
  }
  if (!odd.empty()) sum.add(std::as_bytes(std::span(odd)));
  const std::string final_header = header(hex(sum.value()));
  file.write_at(0, std::as_bytes(std::span(final_header)));
  file.commit();
}

}  // namespace llmplan
