// One training step of one pipeline stage, as data. The simulator and the executor both interpret it;
// all ranks of a stage share it (what differs between them, such as a rank's slice of a sharded
// buffer, follows from the rank's coordinates and the op's shape).
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "costmodel/op.h"
#include "costmodel/units.h"

namespace llmplan {

enum class Space : std::uint8_t { device, host };  // where a buffer lives

// What a buffer is for: the rows of the memory table.
enum class Category : std::uint8_t { weights, gradients, optimizer, activations, logits, buffers };

// In-order queues of one rank; different streams overlap. Two for point-to-point transfers, by
// direction, because all of them on one in-order stream deadlock 1F1B.
enum class Stream : std::uint8_t { compute, comm, down, up };  // down: activations to the next stage
inline constexpr int kStreams = 4;
std::string_view name_of(Stream);

enum class Phase : std::uint8_t { forward, recompute, backward, optimizer };
std::string_view name_of(Phase);

using BufferId = std::int32_t;
using InstrId = std::int32_t;

struct Buffer {
  std::string name;         // "layers.3.swiglu[mb 2]"
  Bytes size;
  DType dtype = DType::fp32;
  Space space = Space::device;
  bool persistent = false;  // lives for the whole run, contents kept between steps
  Category category = Category::activations;
};

// A contiguous part of a buffer: an operand.
struct Ref {
  BufferId buffer = -1;
  Bytes offset{}, size{};
  bool operator==(const Ref&) const = default;
};

struct Instr {
  Op op;
  Stream stream = Stream::compute;
  std::vector<Ref> reads, writes;  // in the order that op.h gives; an op also may read what it writes
  std::vector<InstrId> waits;      // finished before this starts; order within a stream is implied
  Phase phase = Phase::forward;
  std::int16_t layer = -1;         // global index; -1: embedding, head, optimizer
  std::int32_t micro_batch = -1;
};

// A weight tensor of this stage, in the flat weight buffer (and at the same element in gradients,
// master and moments before ZeRO slices them). Flat order: what becomes final last in the backward pass comes first, so
// that each reduction is over contiguous bytes: embedding, norms, layers in forward order, head (block.h: Buckets).
struct Param {
  std::string name;                      // Hugging Face name
  std::vector<std::int64_t> full_shape;  // unsharded
  int tp_dim = -1;                       // dimension that tp splits; -1: replicated
  std::vector<std::int64_t> shape;       // this rank's part; a vocabulary is padded up to tp·ceil(V/tp)
  std::int64_t begin = 0;                // first element in the flat buffer
  bool decay = true;                     // weight decay applies (2-D tensors)
  bool counted = true;                   // false: the last stage's copy of a tied embedding
  std::int64_t elements() const {
    std::int64_t n = 1;
    for (std::int64_t d : shape) n *= d;
    return n;
  }
};

// A run of the flat buffers whose gradients are reduced together. Under ZeRO each data-parallel rank owns one of equally many
// equal slices of every bucket, and its states hold its slices one after another: that of this bucket begins at
// element begin/shards.
struct Bucket {
  std::int64_t begin = 0, elements = 0;
};

struct Program {
  int stage = 0;
  std::vector<Buffer> buffers;
  std::vector<Instr> instrs;  // issue order; run one after another it is a correct program
  std::vector<Param> params;
  std::vector<Bucket> buckets;  // in flat order; all elements are in one
  // Persistent buffers that the trainer fills or reads; -1 where a stage has none.
  BufferId weights = -1, gradients = -1, moment1 = -1, moment2 = -1, master = -1;
  BufferId rope_table = -1, stats = -1, loss_scaling = -1;
};

// Where every buffer sits in the one arena of its space. Persistent buffers come first, in order, so
// that the programs of one stage (train, evaluate) agree on them.
struct Layout {
  std::vector<Bytes> offset;  // by BufferId
  Bytes device_arena{}, host_arena{};
  Bytes live_peak{};          // most bytes alive at once, in issue order: what a perfect layout could reach
};
inline constexpr std::int64_t kAlign = 256;  // bytes; of every buffer's offset

// Equal ops have equal hashes.
std::uint64_t hash_of(const Op&);
struct OpHash {
  std::size_t operator()(const Op& op) const { return hash_of(op); }
};

// 16 hex digits over everything above: equal programs have equal digests, on every machine.
std::string digest(const std::vector<Program>&);

}  // namespace llmplan
