#include "executor/communicator.h"

#include <fmt/format.h>

namespace llmplan {

void refuse_mismatch(int rank, const Collective& here, const Collective& there) {
  throw Error("E0320", Exit::bug,
              fmt::format("rank {} is at {} of {} bytes, another rank of its {} group at {} of {} bytes", rank, name_of(here.kind),
                          here.size.value, name_of(here.axis), name_of(there.kind), there.size.value),
              "the ranks' programs do not match; please report this plan");
}

void refuse_mismatch(int rank, const Recv& expected, std::int64_t sent) {
  throw Error("E0320", Exit::bug,
              fmt::format("rank {} expects {} bytes from stage {} and is sent {}", rank, expected.size.value, expected.stage, sent),
              "the stages' programs do not match; please report this plan");
}

void refuse_axis(int rank, Axis axis) {
  throw Error("E0320", Exit::bug, fmt::format("rank {} is in no {} group", rank, name_of(axis)), "please report this plan");
}

Coordinates coordinates_of(int rank, int tp, int dp, int pp) {
  Coordinates c;
  c.rank = rank;
  c.world = tp * dp * pp;
  c.tp = rank % tp;
  c.dp = rank / tp % dp;
  c.pp = rank / (tp * dp);
  c.tp_size = tp;
  c.dp_size = dp;
  c.pp_size = pp;
  return c;
}

std::string name_of(const Coordinates& c) { return fmt::format("rank {} (tp {}, dp {}, pp {})", c.rank, c.tp, c.dp, c.pp); }

}  // namespace llmplan
