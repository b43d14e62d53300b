#include "planner/builder.h"

#include <charconv>

namespace llmplan::lowering {

// "L12.qkv#3": layer and micro-batch. Short, because most strings of up to 15 characters live without
// an allocation, and a program has 10^5 of them.
BufferId Builder::buffer(std::string_view what, std::int64_t elements, DType dtype, Category category) {
  char text[64];
  char* const end = text + sizeof text;
  char* at = text;
  if (layer >= 0) {
    *at++ = 'L';
    at = std::to_chars(at, end, layer).ptr;
    *at++ = '.';
  }
  at += what.copy(at, 30);
  if (micro_batch >= 0) {
    *at++ = '#';
    at = std::to_chars(at, end, micro_batch).ptr;
  }
  Buffer& b = program.buffers.emplace_back();
  b.name.assign(text, at);
  b.size = {elements * size_of(dtype)};
  b.dtype = dtype;
  b.category = category;
  return static_cast<BufferId>(program.buffers.size()) - 1;
}

void Builder::emit(const Op& op, std::initializer_list<Ref> reads, std::initializer_list<Ref> writes) {
  Instr& i = program.instrs.emplace_back();
  i.op = op;
  const auto list = [](std::vector<Ref>& to, std::initializer_list<Ref> from) {
    to.reserve(from.size());
    for (const Ref& r : from)
      if (r.buffer >= 0) to.push_back(r);
  };
  list(i.reads, reads);
  list(i.writes, writes);
  i.phase = phase;
  i.layer = static_cast<std::int16_t>(layer);
  i.micro_batch = micro_batch;
}

}  // namespace llmplan::lowering
