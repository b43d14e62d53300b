// Which tokens a micro-batch holds. A function of the seed and the position alone: the same samples
// train step t whatever the strategy, and a resumed run reads on where it stopped. docs/data.md
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "executor/tokens.h"

namespace llmplan {

class Loader {
 public:
  // The last `held_out` part of the tokens is kept from training. Error E0403 when fewer than seq + 1
  // tokens are left to train on. `documents`: the last token of each document has the target kDocumentEnd.
  Loader(const Tokens&, std::int64_t seq, double held_out, std::uint64_t seed, bool documents = false);

  // Training sample `n` = 0, 1, 2, …, without end: `seq` ids and the ids that follow each of them.
  void train(std::int64_t n, std::span<std::int32_t> ids, std::span<std::int32_t> targets) const;
  // Held-out sample k of `count`, spread evenly over the held-out part. Targets are −1 where there is
  // nothing to predict: past the part's end, and in samples that would repeat earlier ones.
  void held_out(std::int64_t k, std::int64_t count, std::span<std::int32_t> ids,
                std::span<std::int32_t> targets) const;

  std::int64_t samples_per_epoch() const { return windows_; }
  bool has_held_out() const { return tokens_.size() - train_tokens_ >= 2; }

 private:
  // Fills from token `at`; tokens from `end` on do not exist.
  void fill(std::int64_t at, std::int64_t end, std::span<std::int32_t> ids, std::span<std::int32_t> targets) const;

  const Tokens& tokens_;
  std::int64_t seq_, train_tokens_, windows_;
  std::uint64_t seed_;
  bool documents_;
};

}  // namespace llmplan
