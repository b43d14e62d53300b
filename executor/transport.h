// Messages between the processes of a run that mpirun, srun or torchrun started, one per rank: what MPI and
// plain sockets have in common. Everything that must be the same on both, sums above all, is built on it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <string>

#include "costmodel/error.h"

namespace llmplan {

// Streams of messages that do not meet: collectives of one axis (costmodel/op.h), the two directions of the
// pipeline, and what the trainer agrees on.
enum class Channel : std::uint8_t { tp, dp, cp, ep, embedding, world, down, up, control };
inline constexpr int kChannels = 9;

class Transport {
 public:
  struct Outgoing { int peer; std::span<const std::byte> bytes; };
  struct Incoming { int peer; std::span<std::byte> bytes; };

  virtual ~Transport() = default;
  virtual int rank() const = 0;
  virtual int size() const = 0;
  virtual std::string name() const = 0;  // "tcp", "mpi"
  // All of them at once, so that two that send to each other do not wait for each other. Returns when all
  // buffers may be used again. On one channel, messages between two processes keep their order; a channel
  // is used by one thread at a time. Throws RunStopped when a process is lost or called stop().
  virtual void exchange(Channel, std::span<const Outgoing>, std::span<const Incoming>) = 0;
  // Ends the run everywhere: all that wait, and will, throw RunStopped with the first reason.
  virtual void stop(const std::string& reason) noexcept = 0;
  // When a rank is lost and a call of the network's own library then never returns, the process cannot leave in order. It
  // says this, from any thread, and ends with exit code 6. For transports of which that is known.
  virtual void when_stuck(std::function<void(const std::string& reason)> last_words) { (void)last_words; }
};

// The following are called by every process, in the same order, from one thread.

// The bytes of rank 0 reach all.
void broadcast(Transport&, std::span<std::byte>);
std::string broadcast(Transport&, std::string);
// The largest value that a process gave.
int agree(Transport&, int value);
// The bytes of `owner` reach rank 0. Only these two take part; the others return at once.
void fetch(Transport&, int owner, std::span<std::byte>);
// Rank 0 alone does it; what it throws as an Error, the others throw as ToldByFirst. Without a transport: here.
void on_first(Transport*, const std::function<void()>&);

struct ToldByFirst : Error { using Error::Error; };  // rank 0 prints it

}  // namespace llmplan
