#include "executor/loader.h"

#include <fmt/format.h>

#include <algorithm>

#include "costmodel/error.h"
#include "costmodel/op.h"
#include "executor/random.h"

namespace llmplan {

Loader::Loader(const Tokens& tokens, std::int64_t seq, double held_out, std::uint64_t seed, bool documents)
    : tokens_(tokens), seq_(seq), seed_(seed), documents_(documents) {
  std::int64_t all = tokens.size();
  train_tokens_ = all - static_cast<std::int64_t>(static_cast<double>(all) * held_out);
  if (train_tokens_ < seq + 1)
    throw Error("E0403", Exit::data,
                fmt::format("too little data: {}; {} tokens are left to train on, one sequence needs {}",
                            tokens.description(), train_tokens_, seq + 1),
                fmt::format("use more data, or a plan with --seq {} or less", std::max<std::int64_t>(1, train_tokens_ - 1)));
  // One window less than fits, so that each epoch can start its windows at another token.
  windows_ = std::max<std::int64_t>(1, (train_tokens_ - 1) / seq - 1);
}

void Loader::fill(std::int64_t at, std::int64_t end, std::span<std::int32_t> ids,
                  std::span<std::int32_t> targets) const {
  std::vector<std::int32_t> row(static_cast<std::size_t>(seq_) + 1, 0);
  auto n = static_cast<std::size_t>(std::clamp<std::int64_t>(end - at, 0, seq_ + 1));
  if (n > 0) tokens_.read(at, std::span(row).first(n));
  for (std::size_t i = 0; i < static_cast<std::size_t>(seq_); ++i) {
    ids[i] = row[i];
    targets[i] = i + 1 < n ? row[i + 1] : -1;
  }
  if (!documents_) return;
  // The token behind a document's last one is another document's first: nothing that could be predicted.
  const std::int64_t stop = std::min(end, at + seq_);
  for (std::int64_t next = at; next < stop && (next = tokens_.document_end(next)) <= stop;)
    targets[static_cast<std::size_t>(next - at - 1)] = kDocumentEnd;
}

void Loader::train(std::int64_t n, std::span<std::int32_t> ids, std::span<std::int32_t> targets) const {
  std::int64_t epoch = n / windows_, window = n % windows_;
  std::uint64_t key = mix64(seed_, static_cast<std::uint64_t>(epoch));
  std::int64_t slack = std::min(seq_ - 1, train_tokens_ - 1 - windows_ * seq_);
  auto shift = static_cast<std::int64_t>(mix64(key) % static_cast<std::uint64_t>(slack + 1));
  fill(shift + permute(window, windows_, key) * seq_, train_tokens_, ids, targets);
}

void Loader::held_out(std::int64_t k, std::int64_t count, std::span<std::int32_t> ids,
                      std::span<std::int32_t> targets) const {
  std::int64_t windows = std::max<std::int64_t>(1, (tokens_.size() - train_tokens_ - 1) / seq_);
  std::int64_t window = count <= windows ? k * windows / count : k;
  std::int64_t at = window < windows ? train_tokens_ + window * seq_ : tokens_.size();
  fill(at, tokens_.size(), ids, targets);
}

}  // namespace llmplan
