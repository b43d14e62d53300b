// Megatron's indexed data set: NAME.bin holds tokens, NAME.idx says where each sequence is. The byte
// layout is in docs/data.md; everything in the index is checked before it is believed.
#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <span>
#include <utility>
#include <vector>

#include "costmodel/error.h"
#include "executor/file.h"
#include "executor/tokens.h"

namespace llmplan {
namespace {

static_assert(std::endian::native == std::endian::little, "the files are little-endian");

constexpr std::int64_t kHeader = 34;
constexpr char kMagic[10] = "MMIDIDX\0";  // nine bytes, the last two zero

enum class Code : std::uint8_t { u8 = 1, i8 = 2, i16 = 3, i32 = 4, i64 = 5, u16 = 8, u32 = 9, u64 = 10 };

std::int64_t bytes_of(Code c) {
  switch (c) {
    case Code::u8: case Code::i8: return 1;
    case Code::i16: case Code::u16: return 2;
    case Code::i32: case Code::u32: return 4;
    case Code::i64: case Code::u64: return 8;
  }
  return 0;
}

[[noreturn]] void corrupt(const std::string& file, const std::string& what) {
  throw Error("E0402", Exit::data, fmt::format("{}: {}", file, what),
              "copy the pair again or prepare the data again; .bin and .idx must be written by the same run");
}

template <class T>
T load(const std::byte* p) {
  T v;
  std::memcpy(&v, p, sizeof v);
  return v;
}

// Calls visit(i, value) for `count` values of type T from byte `offset`, in blocks.
template <class T, class Visit>
void scan(const InputFile& file, std::int64_t offset, std::int64_t count, Visit visit) {
  constexpr std::int64_t kPiece = 1 << 16;
  std::vector<std::byte> block(static_cast<std::size_t>(std::min(kPiece, count)) * sizeof(T));
  for (std::int64_t i = 0; i < count; i += kPiece) {
    std::int64_t n = std::min(kPiece, count - i);
    file.read(offset + i * static_cast<std::int64_t>(sizeof(T)), std::span(block).first(static_cast<std::size_t>(n) * sizeof(T)));
    for (std::int64_t k = 0; k < n; ++k) visit(i + k, load<T>(block.data() + k * static_cast<std::int64_t>(sizeof(T))));
  }
}

class IndexedTokens : public Tokens {
 public:
  IndexedTokens(const std::string& prefix, std::int64_t vocabulary, bool documents)
      : bin_(prefix + ".bin"), vocabulary_(vocabulary) {
    InputFile idx(prefix + ".idx");
    read_header(idx);
    read_sequences(idx);
    read_documents(idx, documents);
  }

  std::int64_t document_end(std::int64_t at) const override {
    auto end = std::upper_bound(ends_.begin(), ends_.end(), at);
    return end == ends_.end() ? tokens_ : *end;
  }

  std::int64_t size() const override { return tokens_; }

  void read(std::int64_t first, std::span<std::int32_t> out) const override {
    if (starts_.empty()) return read_at(first, base_ + first * width_, out);
    auto s = static_cast<std::size_t>(std::upper_bound(starts_.begin(), starts_.end(), first) - starts_.begin() - 1);
    while (!out.empty()) {
      std::int64_t begin = starts_[s], end = s + 1 < starts_.size() ? starts_[s + 1] : tokens_;
      auto n = static_cast<std::size_t>(std::min<std::int64_t>(end - first, static_cast<std::int64_t>(out.size())));
      read_at(first, pointers_[s] + (first - begin) * width_, out.first(n));
      out = out.subspan(n);
      first += static_cast<std::int64_t>(n);
      ++s;
    }
  }

  std::string description() const override {
    return fmt::format("{}: {} tokens of {} byte{} in {} sequences, {} documents", bin_.path(), tokens_, width_,
                       width_ == 1 ? "" : "s", sequences_, documents_ - 1);
  }

 private:
  void read_header(const InputFile& idx) {
    std::int64_t have = idx.size();
    if (have == 0)
      throw Error("E0403", Exit::data, fmt::format("{} is empty", idx.path()), "prepare the data again");
    std::byte header[kHeader];
    idx.read(0, std::span(header).first(static_cast<std::size_t>(std::min<std::int64_t>(9, have))));
    if (have >= 8 && std::memcmp(header, "TNTIDX\0\0", 8) == 0)
      throw Error("E0402", Exit::data, fmt::format("{} has the old TNTIDX format", idx.path()),
                  "convert it with Megatron's tools to the MMIDIDX format, or prepare the data again");
    if (have < 9 || std::memcmp(header, kMagic, 9) != 0)
      corrupt(idx.path(), "not a Megatron index (it does not start with MMIDIDX)");
    if (have < kHeader)
      corrupt(idx.path(), fmt::format("truncated: the header has {} bytes, the file {}", kHeader, have));
    idx.read(0, header);
    auto version = load<std::uint64_t>(header + 9);
    if (version != 1) corrupt(idx.path(), fmt::format("version {} is unknown (1 is the only one)", version));
    auto code = std::to_integer<int>(header[17]);
    if (code == 6 || code == 7)
      corrupt(idx.path(), fmt::format("data type code {} means floating point (or differs between forks), not tokens", code));
    code_ = static_cast<Code>(code);
    width_ = bytes_of(code_);
    if (width_ == 0) corrupt(idx.path(), fmt::format("data type code {} is unknown (1 to 5, 8, 9 and 10 hold tokens)", code));

    auto s = load<std::uint64_t>(header + 18), d = load<std::uint64_t>(header + 26);
    auto room = static_cast<std::uint64_t>(have - kHeader);
    // Divisions first: 12·S + 8·D may not fit into 64 bits.
    if (s > room / 12 || d > room / 8 || 12 * s + 8 * d > room)
      corrupt(idx.path(), fmt::format("truncated: the header promises {} sequences and {} document entries (at least {} "
                                      "bytes), the file has {}",
                                      s, d, s > room / 12 || d > room / 8 ? std::string("far more") : std::to_string(kHeader + 12 * s + 8 * d),
                                      have));
    std::uint64_t rest = room - 12 * s - 8 * d;
    if (rest != 0 && rest != s)  // one mode byte per sequence, in multimodal sets
      corrupt(idx.path(), fmt::format("{} bytes follow what the header describes", rest));
    if (s == 0)
      throw Error("E0403", Exit::data, fmt::format("{} holds no sequences", idx.path()), "prepare the data again");
    sequences_ = static_cast<std::int64_t>(s);
    documents_ = static_cast<std::int64_t>(d);
  }

  void read_sequences(const InputFile& idx) {
    std::int64_t have = bin_.size();
    // Lengths and pointers side by side: pointers follow all lengths and are not aligned to 8 bytes.
    std::vector<std::int32_t> lengths;
    constexpr std::int64_t kPiece = 1 << 16;
    std::int64_t next = 0;
    bool contiguous = true;
    for (int pass = 0; pass < 2; ++pass) {
      tokens_ = 0;
      for (std::int64_t i = 0; i < sequences_; i += kPiece) {
        std::int64_t n = std::min(kPiece, sequences_ - i);
        lengths.resize(static_cast<std::size_t>(n));
        idx.read(kHeader + 4 * i, std::as_writable_bytes(std::span(lengths)));
        scan<std::int64_t>(idx, kHeader + 4 * sequences_ + 8 * i, n, [&](std::int64_t k, std::int64_t pointer) {
          std::int64_t length = lengths[static_cast<std::size_t>(k)];
          if (length < 0) corrupt(idx.path(), fmt::format("sequence {} has length {}", i + k, length));
          if (pointer < 0 || pointer > have || length > (have - pointer) / width_)
            corrupt(bin_.path(), fmt::format("truncated: sequence {} is {} tokens of {} bytes at byte {}, the file has {} bytes",
                                             i + k, length, width_, pointer, have));
          if (i + k == 0) base_ = next = pointer;
          contiguous = contiguous && pointer == next;
          next = pointer + length * width_;
          if (pass == 1) {
            starts_.push_back(tokens_);
            pointers_.push_back(pointer);
          }
          tokens_ += length;
        });
      }
      if (contiguous) break;  // the usual case needs no table; else the second pass builds one
    }
    if (tokens_ == 0)
      throw Error("E0403", Exit::data, fmt::format("{} holds no tokens", bin_.path()), "prepare the data again");
    if (have != tokens_ * width_)
      corrupt(bin_.path(), fmt::format("the index describes {} tokens of {} bytes ({} bytes), the file has {} bytes", tokens_,
                                       width_, tokens_ * width_, have));
  }

  void read_documents(const InputFile& idx, bool keep) {
    if (documents_ == 0) corrupt(idx.path(), "no document boundaries");
    std::int64_t last = 0;
    scan<std::int64_t>(idx, kHeader + 12 * sequences_, documents_, [&](std::int64_t i, std::int64_t boundary) {
      if (boundary < last || boundary > sequences_ || (i == 0 && boundary != 0))
        corrupt(idx.path(), fmt::format("document boundary {} is {}, after {} and with {} sequences", i, boundary, last, sequences_));
      last = boundary;
      if (keep) ends_.push_back(boundary);
    });
    if (last != sequences_)
      corrupt(idx.path(), fmt::format("the last document ends at sequence {}, the header says {}", last, sequences_));
    // From numbers of sequences to numbers of tokens.
    std::size_t next = 0;
    std::int64_t tokens = 0;
    if (keep)
      scan<std::int32_t>(idx, kHeader, sequences_, [&](std::int64_t i, std::int32_t length) {
        for (; next < ends_.size() && ends_[next] == i; ++next) ends_[next] = tokens;
        tokens += length;
      });
    for (; next < ends_.size(); ++next) ends_[next] = tokens;
  }

  // Converts tokens [first, first + out.size()), which stand together at byte `offset`.
  void read_at(std::int64_t first, std::int64_t offset, std::span<std::int32_t> out) const {
    std::byte bytes[8192];
    const std::size_t piece = sizeof bytes / static_cast<std::size_t>(width_);
    while (!out.empty()) {
      std::size_t n = std::min(out.size(), piece), size = n * static_cast<std::size_t>(width_);
      bin_.read(offset, std::span(bytes).first(size));
      switch (code_) {
        case Code::u8: convert<std::uint8_t>(bytes, first, out.first(n)); break;
        case Code::i8: convert<std::int8_t>(bytes, first, out.first(n)); break;
        case Code::i16: convert<std::int16_t>(bytes, first, out.first(n)); break;
        case Code::i32: convert<std::int32_t>(bytes, first, out.first(n)); break;
        case Code::i64: convert<std::int64_t>(bytes, first, out.first(n)); break;
        case Code::u16: convert<std::uint16_t>(bytes, first, out.first(n)); break;
        case Code::u32: convert<std::uint32_t>(bytes, first, out.first(n)); break;
        case Code::u64: convert<std::uint64_t>(bytes, first, out.first(n)); break;
      }
      out = out.subspan(n);
      first += static_cast<std::int64_t>(n);
      offset += static_cast<std::int64_t>(size);
    }
  }

  template <class T>
  void convert(const std::byte* bytes, std::int64_t first, std::span<std::int32_t> out) const {
    for (std::size_t i = 0; i < out.size(); ++i) {
      T id = load<T>(bytes + i * sizeof(T));
      if (std::cmp_less(id, 0) || std::cmp_greater_equal(id, vocabulary_))
        throw Error("E0405", Exit::data,
                    fmt::format("{}: token {} is {}, outside the model's vocabulary of {}", bin_.path(),
                                first + static_cast<std::int64_t>(i), id, vocabulary_),
                    "the data was tokenized for another model: use that model's vocab_size, or prepare the data again");
      out[i] = static_cast<std::int32_t>(id);
    }
  }

  InputFile bin_;
  std::int64_t vocabulary_;
  Code code_ = Code::u8;
  std::int64_t width_ = 0, sequences_ = 0, documents_ = 0, tokens_ = 0;
  std::int64_t base_ = 0;                        // byte of the first token, when sequences are contiguous
  std::vector<std::int64_t> ends_;               // of the documents, in tokens, if they were asked for
  std::vector<std::int64_t> starts_, pointers_;  // else: first token and first byte of each sequence
};

}  // namespace

std::unique_ptr<Tokens> open_indexed(const std::string& prefix, std::int64_t vocabulary, bool documents) {
  return std::make_unique<IndexedTokens>(prefix, vocabulary, documents);
}

}  // namespace llmplan
