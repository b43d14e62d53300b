// The model's tensors, whole, across the ranks that hold their parts.
#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <mutex>
#include <thread>

#include "costmodel/error.h"
#include "executor/init.h"
#include "executor/ranks_body.h"
#include "executor/shard.h"

namespace llmplan {
namespace {

using Body = Ranks::Body;

// Runs body(i) for i < n on all cores.
void in_parallel(std::size_t n, const std::function<void(std::size_t)>& body) {
  std::atomic<std::size_t> next = 0;
  auto work = [&] {
    for (std::size_t i; (i = next++) < n;) body(i);
  };
  std::vector<std::jthread> helpers;
  for (unsigned t = 1; t < std::thread::hardware_concurrency(); ++t) helpers.emplace_back(work);
  work();
}

const std::vector<Body::Place>& find(const Body& b, const std::string& name) {
  auto found = b.places.find(name);
  if (found == b.places.end())
    throw Error("E0406", Exit::data, fmt::format("the model has no tensor '{}'", name), "use weights of the plan's model");
  return found->second;
}

// Calls visit(rank, element in the buffer, offset, count) for the pieces of elements [begin, begin + count)
// of a stage's flat order as one tp position holds them. A buffer that ZeRO deals out over dp is one of
// slices: the rank that owns a piece is visited. Of buffers that are whole everywhere, every dp rank is
// visited, or the first only.
template <class Visit>
void pieces(const Body& b, BufferId id, int tp_rank, int stage, std::int64_t begin, std::int64_t count, bool every, Visit visit) {
  const Program& p = b.train.programs[static_cast<std::size_t>(stage)];
  const int first = b.rank_at(tp_rank, 0, stage);
  const std::int64_t whole = b.elements(first, p.weights), slice = b.elements(first, p.moment1);
  // Gradients too: only the own slice is summed. Weights are whole everywhere, but between two steps those of the other
  // ranks' slices are the last step's: written everywhere, read where they are new.
  const bool dealt = slice < whole && !(every && id == p.weights);
  const bool own_only = b.elements(first, id) < whole;       // the buffer holds nothing but the slice
  if (!dealt) {
    for (int d = 0; d < (every ? b.dp() : 1); ++d) visit(b.rank_at(tp_rank, d, stage), begin, std::int64_t{0}, count);
    return;
  }
  for (std::int64_t at = begin; at < begin + count;) {
    const OwnedElement own = owner_of(at, p.buckets, whole / slice);
    const std::int64_t n = std::min(begin + count - at, own.run);
    visit(b.rank_at(tp_rank, static_cast<int>(own.dp_rank), stage), own_only ? own.index : at, at - begin, n);
    at += n;
  }
}

// Buffers that hold a state: weights also have an fp32 master where they are narrower.
std::vector<BufferId> buffers_of(const Body& b, State state, int stage) {
  const Program& p = b.train.programs[static_cast<std::size_t>(stage)];
  switch (state) {
    case State::weights: return p.master < 0 ? std::vector{p.weights} : std::vector{p.master, p.weights};
    case State::gradients: return {p.gradients};
    case State::moment1: return {p.moment1};
    case State::moment2: return {p.moment2};
  }
  return {};
}

void put_part(Body& b, State state, const Body::Place& at, int tp_rank, std::int64_t local, std::span<const float> values) {
  for (BufferId id : buffers_of(b, state, at.stage))
    pieces(b, id, tp_rank, at.stage, at.param->begin + local, static_cast<std::int64_t>(values.size()), true,
           [&](int rank, std::int64_t element, std::int64_t offset, std::int64_t n) {
             b.put(rank, id, element, values.subspan(static_cast<std::size_t>(offset), static_cast<std::size_t>(n)));
           });
}

}  // namespace

void Ranks::Body::list_tensors() {
  for (const Program& p : train.programs)
    for (const Param& param : p.params) {
      auto& at = places[param.name];
      if (param.counted) {
        tensors.push_back({param.name, param.full_shape});
        at.insert(at.begin(), {p.stage, &param});
      } else {
        at.push_back({p.stage, &param});
      }
    }
}

void Ranks::init(std::uint64_t seed) {
  Body& b = *body_;
  struct Job { Body::Place at; int tp; std::int64_t first; };
  std::vector<Job> jobs;
  for (const Program& p : b.train.programs)
    for (const Param& param : p.params)
      for (int tp = 0; tp < b.tp(); ++tp)
        for (std::int64_t first = 0; first < param.elements(); first += kBlock)
          if (b.holds(p.stage, tp)) jobs.push_back({{p.stage, &param}, tp, first});
  std::mutex writing;  // ranks on GPUs take one caller at a time
  in_parallel(jobs.size(), [&](std::size_t i) {
    auto& [at, tp, first] = jobs[i];
    std::vector<float> values(static_cast<std::size_t>(std::min(kBlock, at.param->elements() - first)));
    init_weights(*at.param, tp, b.plan.model.num_hidden_layers, seed, first, values);
    std::lock_guard lock(writing);
    put_part(b, State::weights, at, tp, first, values);
  });
}

const std::vector<FloatTensor>& Ranks::tensors() const { return body_->tensors; }

void Ranks::read(State state, const std::string& name, std::int64_t first, std::span<float> out) const {
  const Body& b = *body_;
  auto [stage, param] = find(b, name).front();
  const BufferId id = buffers_of(b, state, stage).front();
  const std::int64_t begin = param->begin, end = first + static_cast<std::int64_t>(out.size());
  for (int tp = 0; tp < (param->tp_dim < 0 ? 1 : b.tp()); ++tp)
    for_each_run(*param, tp, first, end, [&](std::int64_t local, std::int64_t global, std::int64_t count) {
      pieces(b, id, tp, stage, begin + local, count, false, [&](int rank, std::int64_t element, std::int64_t offset, std::int64_t n) {
        b.get(rank, id, element, out.subspan(static_cast<std::size_t>(global - first + offset), static_cast<std::size_t>(n)));
      });
    });
}

std::vector<float> Ranks::read(State state, const std::string& name) const {
  std::vector<float> out(static_cast<std::size_t>(full_elements(*find(*body_, name).front().param)));
  read(state, name, 0, out);
  return out;
}

void Ranks::write(State state, const std::string& name, std::int64_t first, std::span<const float> values) {
  Body& b = *body_;
  const std::int64_t end = first + static_cast<std::int64_t>(values.size());
  for (const Body::Place& at : find(b, name))
    for (int tp = 0; tp < b.tp(); ++tp) {
      const std::int64_t part = at.param->elements();
      if (first == 0)  // vocabulary padding, which no element of the whole tensor reaches
        for (std::int64_t local = 0; local < part; local += kBlock)
          put_part(b, state, at, tp, local, std::vector<float>(static_cast<std::size_t>(std::min(kBlock, part - local))));
      for_each_run(*at.param, tp, first, end, [&](std::int64_t local, std::int64_t global, std::int64_t count) {
        put_part(b, state, at, tp, local, values.subspan(static_cast<std::size_t>(global - first), static_cast<std::size_t>(count)));
      });
    }
}

std::string Ranks::first_difference() const {
  const Body& b = *body_;
  for (auto& [name, places] : b.places) {
    std::map<int, std::vector<std::byte>> expected;  // by the part of the tensor
    for (auto& [stage, param] : places)
      for (int tp = 0; tp < b.tp(); ++tp) {
        const int first = b.rank_at(tp, 0, stage);
        const BufferId id = b.program(first).weights;
        const std::int64_t width = size_of(b.buffer(first, id).dtype);
        const bool sharded = b.elements(first, b.program(first).moment1) < b.elements(first, id);
        std::vector<std::byte> bytes(static_cast<std::size_t>(param->elements() * width));
        std::string difference;
        const auto compare = [&](int rank) {
          auto [at, added] = expected.try_emplace(param->tp_dim < 0 ? 0 : tp, bytes);
          if (!added && at->second != bytes) difference = fmt::format("{} on rank {}", name, rank);
        };
        pieces(b, id, tp, stage, param->begin, param->elements(), !sharded,
                 [&](int rank, std::int64_t element, std::int64_t offset, std::int64_t n) {
                   const std::span<std::byte> out(bytes.data() + offset * width, static_cast<std::size_t>(n * width));
                   b.ranks[static_cast<std::size_t>(rank)]->read(b.address(rank, id, element), out);
                   if (!sharded) compare(rank);
                 });
        if (sharded) compare(first);
        if (!difference.empty()) return difference;
      }
  }
  return "";
}

}  // namespace llmplan
