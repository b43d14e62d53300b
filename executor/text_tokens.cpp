// A text file is a row of bytes: ids 0…255. Ids from 256 on are the vocabulary's specials, which plain
// text never contains.
#include <fmt/format.h>

#include <array>

#include "costmodel/error.h"
#include "executor/file.h"
#include "executor/tokens.h"

namespace llmplan {
namespace {

class TextTokens : public Tokens {
 public:
  explicit TextTokens(const std::string& path) : file_(path), size_(file_.size()) {}
  std::int64_t size() const override { return size_; }
  void read(std::int64_t first, std::span<std::int32_t> out) const override {
    std::array<unsigned char, 4096> bytes;
    while (!out.empty()) {
      std::size_t n = std::min(out.size(), bytes.size());
      file_.read(first, std::as_writable_bytes(std::span(bytes).first(n)));
      for (std::size_t i = 0; i < n; ++i) out[i] = bytes[i];
      out = out.subspan(n);
      first += static_cast<std::int64_t>(n);
    }
  }
  std::string description() const override {
    return fmt::format("{}: text, {} bytes", file_.path(), size_);
  }

 private:
  InputFile file_;
  std::int64_t size_;
};

}  // namespace

std::unique_ptr<Tokens> open_text(const std::string& file, std::int64_t vocabulary) {
  if (vocabulary < 257)
    throw Error("E0405", Exit::data,
                fmt::format("text is read as bytes, which need a vocabulary of at least 257, and the "
                            "model's has {}", vocabulary),
                "use a model with vocab_size 257 or more, or data that was tokenized for this model");
  auto tokens = std::make_unique<TextTokens>(file);
  if (tokens->size() == 0)
    throw Error("E0403", Exit::data, fmt::format("{} is empty", file), "give a text file with some text in it");
  return tokens;
}

}  // namespace llmplan
