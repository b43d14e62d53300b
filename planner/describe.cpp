// Instructions in words, for errors.
#include <fmt/format.h>

#include "planner/verify.h"

namespace llmplan {
namespace {

std::string bytes_text(Bytes b) {
  if (b.value < 1024) return fmt::format("{} B", b.value);
  double x = static_cast<double>(b.value) / 1024;
  for (const char* unit : {"KiB", "MiB", "GiB"}) {
    if (x < 1024) return fmt::format("{:.1f} {}", x, unit);
    x /= 1024;
  }
  return fmt::format("{:.1f} TiB", x);
}

std::string op_text(const Op& op) {
  const std::string kind(kind_of(op));
  if (const auto* g = std::get_if<Gemm>(&op)) return fmt::format("{} {}x{}x{}", kind, g->m, g->n, g->k);
  if (const auto* c = std::get_if<Collective>(&op))
    return fmt::format("{} {} over {}", kind, bytes_text(c->size), name_of(c->axis));
  if (const auto* s = std::get_if<Send>(&op)) return fmt::format("send {} to stage {}", bytes_text(s->size), s->stage);
  if (const auto* r = std::get_if<Recv>(&op))
    return fmt::format("recv {} from stage {}", bytes_text(r->size), r->stage);
  return kind;
}

}  // namespace

std::string describe(const Program& program, InstrId id) {
  const Instr& i = program.instrs[id];
  std::string where;
  if (i.layer >= 0) where += fmt::format("layers.{}, ", i.layer);
  if (i.micro_batch >= 0) where += fmt::format("mb {}, ", i.micro_batch);
  return fmt::format("stage {} #{} {} ({}{}, {})", program.stage, id, op_text(i.op), where, name_of(i.phase),
                     name_of(i.stream));
}

}  // namespace llmplan
