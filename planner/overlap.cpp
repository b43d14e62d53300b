#include "planner/overlap.h"

#include "planner/happens_before.h"

namespace llmplan {
namespace {

Stream stream_of(const Op& op, int stage, bool enabled) {
  if (const auto* send = std::get_if<Send>(&op)) return send->stage > stage ? Stream::down : Stream::up;
  if (const auto* recv = std::get_if<Recv>(&op)) return recv->stage < stage ? Stream::down : Stream::up;
  if (const auto* c = std::get_if<Collective>(&op); c && enabled)
    // What tp ranks exchange is the next op's input; only gradients and weights have time: a bucket of gradients is
    // under way while earlier layers compute theirs.
    if (c->axis == Axis::dp || c->axis == Axis::embedding || c->axis == Axis::world) return Stream::comm;
  return Stream::compute;
}

}  // namespace

void overlap(Program& program, bool enabled) {
  for (Instr& i : program.instrs) i.stream = stream_of(i.op, program.stage, enabled);
  add_waits(program, separate_addresses(program));
}

}  // namespace llmplan
