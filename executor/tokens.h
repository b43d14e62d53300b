// Training data as one long row of token ids, from a text file or a Megatron pair. docs/data.md
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>

namespace llmplan {

class Tokens {
 public:
  virtual ~Tokens() = default;
  virtual std::int64_t size() const = 0;
  // Ids at [first, first + out.size()). Error E0402 when the file has become shorter, E0405 when an id is
  // not below `vocabulary`.
  virtual void read(std::int64_t first, std::span<std::int32_t> out) const = 0;
  // One past the last token of the document that holds token `at`. Without documents, all is one.
  virtual std::int64_t document_end(std::int64_t at) const { return (void)at, size(); }
  virtual std::string description() const = 0;  // "text, 1,115,394 bytes"
};

// `path` is a text file, or the prefix of a .bin/.idx pair (either name of the pair will do as well).
// Ids are checked against `vocabulary`, the model's. Errors E0401…E0405. `documents`: document_end() will be asked;
// eight bytes of memory per document.
std::unique_ptr<Tokens> open_tokens(const std::string& path, std::int64_t vocabulary, bool documents = false);

std::unique_ptr<Tokens> open_text(const std::string& file, std::int64_t vocabulary);
std::unique_ptr<Tokens> open_indexed(const std::string& prefix, std::int64_t vocabulary, bool documents = false);

// Reads everything once, so that a bad id is found now and not after hours. Files of more than
// `at_most` tokens are sampled from both ends only; read() still checks what it reads.
void check_ids(const Tokens&, std::int64_t at_most = std::int64_t{1} << 28);

}  // namespace llmplan
