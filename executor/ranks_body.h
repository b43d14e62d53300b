// What Ranks is made of, for the files that implement it: ranks.cpp runs programs, ranks_memory.cpp reaches one rank's buffers,
// ranks_tensors.cpp the model's tensors across them.
#pragma once

#include <array>
#include <functional>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "executor/crew.h"
#include "executor/local_comm.h"
#include "executor/rank.h"
#include "executor/ranks.h"
#include "executor/transport.h"

namespace llmplan {

struct Ranks::Body {
  Plan plan;
  const std::atomic<int>* stop;
  Transport* transport;  // null: all ranks are here
  Placement placement;
  int share;             // of them, how many are on this machine, where there is a transport
  Lowered train, eval;
  LocalWorld world;
  std::vector<std::unique_ptr<Rank>> ranks;
  std::vector<Timeline> timelines;
  std::vector<FloatTensor> tensors;
  struct Place { int stage; const Param* param; };
  std::map<std::string, std::vector<Place>> places;  // the first is the one to read
  std::unique_ptr<Crew> crew;

  struct Elsewhere { Transport* transport = nullptr; int local = 0, share = 1; };
  Body(const Plan&, const std::atomic<int>* stop, Placement, const Elsewhere&);

  bool here(int rank) const { return !transport || transport->rank() == rank; }
  int held() const { return transport ? transport->rank() : 0; }  // the first that is here

  // Some rank here has this tp position of this stage.
  bool holds(int stage, int tp_rank) const {
    const Coordinates c = world.coordinates(held());
    return !transport || (c.pp == stage && c.tp == tp_rank);
  }

  int tp() const { return static_cast<int>(plan.strategy.tp); }
  int dp() const { return static_cast<int>(plan.strategy.dp); }
  int rank_at(int tp_rank, int dp_rank, int pp_rank) const { return tp_rank + tp() * (dp_rank + dp() * pp_rank); }
  std::size_t stage_of(int rank) const { return static_cast<std::size_t>(world.coordinates(rank).pp); }
  const Program& program(int rank) const { return train.programs[stage_of(rank)]; }
  Bytes predicted(int rank) const {
    auto s = stage_of(rank);
    return std::max(train.layouts[s].device_arena, eval.layouts[s].device_arena);
  }

  // ---- Buffers of one rank, in elements of the buffer's own type

  const Buffer& buffer(int rank, BufferId id) const { return program(rank).buffers[static_cast<std::size_t>(id)]; }
  std::int64_t elements(int rank, BufferId id) const {
    return id < 0 ? 0 : buffer(rank, id).size.value / size_of(buffer(rank, id).dtype);
  }
  Bytes address(int rank, BufferId id, std::int64_t element) const {
    return train.layouts[stage_of(rank)].offset[static_cast<std::size_t>(id)] + Bytes{element * size_of(buffer(rank, id).dtype)};
  }
  void get(int rank, BufferId, std::int64_t first, std::span<float> out) const;  // wherever the rank is
  void put(int rank, BufferId, std::int64_t first, std::span<const float> in);   // if it is here
  void put_loss_scaling(int rank, const LossScaling&);
  void fill_constants(int rank);  // what is known before the first step: zeros, the table of rotations

  // ---- Tensors of the whole model
  void list_tensors();

  // ---- Execution
  void run(const std::function<void(int)>& job);
  // One program everywhere; {Σ grad², Σ loss, tokens} of the world.
  std::array<double, 3> execute_all(const Lowered&, const StepScalars&, const SampleSource&, std::int64_t samples_per_rank, bool timed);

 private:
  std::unique_ptr<Rank> make_own(const RankOptions&, const Elsewhere&);  // of a process that the transport started
  void load(int rank, BufferId, std::int64_t first, std::span<float> out) const;
  void zero(int rank, BufferId, std::int64_t first, std::int64_t end);
};

inline constexpr std::int64_t kBlock = std::int64_t{1} << 20;  // elements that pass through a buffer at once

}  // namespace llmplan
