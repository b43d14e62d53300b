// Several documents in one sequence. The loader marks the last token of each in the targets (op.h: kDocumentEnd).
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "costmodel/op.h"

namespace llmplan {

// For each token of a sequence, where its document begins: the token after a mark starts a new one.
inline void document_starts(std::span<const std::int32_t> targets, std::span<std::int32_t> starts) {
  std::int32_t start = 0;
  for (std::size_t t = 0; t < targets.size(); ++t) {
    starts[t] = start;
    if (targets[t] == kDocumentEnd) start = static_cast<std::int32_t>(t) + 1;
  }
}

}  // namespace llmplan
