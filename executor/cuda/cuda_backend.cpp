#include "executor/cuda/cuda_backend.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cmath>
#include <condition_variable>
#include <map>
#include <mutex>
#include <thread>

#include "costmodel/error.h"
#include "executor/documents.h"
#include "executor/shard.h"

namespace llmplan::cuda {
namespace {

constexpr std::size_t kMaxOperands = 16;
constexpr auto kCompute = static_cast<std::size_t>(Stream::compute);

// Parameters as the optimizer's kernels want them. Norms (tp-replicated) count once per tp group, what dp ranks
// duplicate once per dp group, the second copy of a tied embedding never.
std::vector<Segment> segments(const Program& program, const Coordinates& where) {
  std::vector<Segment> all;
  bool dp_duplicates = true;  // without ZeRO every dp rank holds the same gradients
  for (const Instr& in : program.instrs)
    if (auto* op = std::get_if<GradStats>(&in.op)) dp_duplicates = op->shards == 1;
  for (const Param& p : program.params) {
    bool counted = p.counted && (p.tp_dim >= 0 || where.tp == 0) && (!dp_duplicates || where.dp == 0);
    all.push_back({p.begin, p.begin + p.elements(), p.decay, counted, noise_place(p, where.tp)});
  }
  std::sort(all.begin(), all.end(), [](const Segment& a, const Segment& b) { return a.begin < b.begin; });
  return all;
}

std::int64_t largest_slice(const Program& program) {
  std::int64_t most = 1;
  for (const Instr& in : program.instrs)
    if (auto* op = std::get_if<GradStats>(&in.op)) most = std::max(most, op->elements);
  return most;
}

// What a program keeps from one execution to the next.
struct Prepared {
  std::vector<OwnedEvent> finished;       // by InstrId; empty where nobody waits
  std::vector<OwnedEvent> before, after;  // by InstrId, timed executions only
  std::map<InstrId, std::unique_ptr<PinnedArray<std::int32_t>>> input;  // ids, targets, starts of each Load
  std::array<bool, kStreams> uses{};
  OwnedGraph graph;
};

struct Command {  // of a stream that has an issuing thread
  InstrId instr;
  bool wait;      // for the instruction, or issue it
};

}  // namespace

struct CudaBackend::State {
  Device& device;
  Coordinates where;
  GpuCommunicator* communicator;
  const Optimizer& optimizer;
  const AttentionChoices& attention;
  std::array<std::byte*, 2> base;  // by Space
  std::array<OwnedStream, kStreams> streams;
  std::vector<Segment> host_segments;
  std::int64_t partial_count;
  DeviceArray<Segment> device_segments;
  DeviceArray<double> partial;
  DeviceArray<AdamScalars> scalars;
  PinnedArray<AdamScalars> host_scalars;
  OwnedEvent fork;  // also the zero of the timeline
  std::array<OwnedEvent, kStreams> join;
  LaunchContext context;

  std::map<const Program*, Prepared> prepared;
  Execution now;
  Prepared* current = nullptr;
  bool timed = false, capturing = false, replaying = false;
  Timeline timeline;
  std::atomic<bool> cancelled = false;

  // Issuing threads, while a step is issued.
  std::array<std::vector<Command>, kStreams> commands;
  std::vector<char> issued;  // by InstrId: its event is recorded
  std::mutex mutex;
  std::condition_variable changed;
  std::exception_ptr failure;

  State(Device& d, const Coordinates& w, GpuCommunicator* c, const Optimizer& o, const AttentionChoices& a, const Program& program,
        std::byte* arena, std::byte* host)
      : device(d), where(w), communicator(c), optimizer(o), attention(a), base{arena, host}, host_segments(segments(program, w)),
        partial_count(partial_doubles(largest_slice(program))), device_segments(d, host_segments.size()),
        partial(d, static_cast<std::size_t>(partial_count)), scalars(d, 1), host_scalars(d, 1), fork(d, d.make_event(true)) {
    device.transfer(device_segments.get(), host_segments.data(), host_segments.size() * sizeof(Segment));
    for (auto& s : streams) s = OwnedStream(d, d.make_stream());
    for (auto& j : join) j = OwnedEvent(d, d.make_event(false));
    context.where = w;
    context.optimizer = &optimizer;
    context.segments = device_segments.get();
    context.segment_count = static_cast<std::int64_t>(host_segments.size());
    context.scalars = scalars.get();
    context.partial = partial.get();
    context.counts_loss = w.tp == 0;
  }

  bool threaded() const { return communicator && !communicator->enqueues_only(); }
  StreamHandle stream(Stream s) const { return streams[static_cast<std::size_t>(s)].get(); }
  std::byte* address(const Ref& r) const {
    auto b = static_cast<std::size_t>(r.buffer);
    return base[static_cast<std::size_t>(now.program->buffers[b].space)] + now.layout->offset[b].value + r.offset.value;
  }

  Prepared& prepare(const Program& program) {
    auto [it, fresh] = prepared.try_emplace(&program);
    Prepared& p = it->second;
    if (!fresh) return p;
    p.finished.resize(program.instrs.size());
    for (InstrId i = 0; i < static_cast<InstrId>(program.instrs.size()); ++i) {
      const Instr& in = program.instrs[static_cast<std::size_t>(i)];
      p.uses[static_cast<std::size_t>(in.stream)] = true;
      for (InstrId w : in.waits)
        if (auto& e = p.finished[static_cast<std::size_t>(w)]; !e) e = OwnedEvent(device, device.make_event(false));
      if (auto* load = std::get_if<Load>(&in.op))
        p.input[i] = std::make_unique<PinnedArray<std::int32_t>>(device, static_cast<std::size_t>(3 * load->rows));
    }
    return p;
  }

  // The step's input goes to pinned memory before anything starts; the device copies it from there.
  void stage_inputs() {
    for (auto& [i, pinned] : current->input) {
      const Instr& in = now.program->instrs[static_cast<std::size_t>(i)];
      std::int64_t rows = std::get<Load>(in.op).rows, seq = rows / now.samples_per_micro_batch;
      auto first = static_cast<std::int64_t>(where.dp) * now.samples_per_rank + std::max(0, in.micro_batch) * now.samples_per_micro_batch;
      for (std::int64_t k = 0; k < now.samples_per_micro_batch; ++k) {
        auto length = static_cast<std::size_t>(seq);
        const std::span<std::int32_t> targets{pinned->get() + rows + k * seq, length};
        (*now.samples)(first + k, {pinned->get() + k * seq, length}, targets);
        document_starts(targets, {pinned->get() + 2 * rows + k * seq, length});
      }
    }
    host_scalars.get()->learning_rate = now.step.learning_rate;
    host_scalars.get()->step = now.step.step;
    host_scalars.get()->correction1 = 1 - std::pow(optimizer.beta1, static_cast<double>(now.step.step));
    host_scalars.get()->correction2 = 1 - std::pow(optimizer.beta2, static_cast<double>(now.step.step));
  }

  // All streams start after the compute stream's first node, and it ends after all of theirs: what a capture needs.
  void fork_streams() {
    StreamHandle compute = stream(Stream::compute);
    device.copy(scalars.get(), host_scalars.get(), sizeof(AdamScalars), compute);
    device.record(fork.get(), compute);
    for (std::size_t s = 0; s < kStreams; ++s)
      if (current->uses[s] && s != kCompute) device.wait(streams[s].get(), fork.get());
  }
  void join_streams() {
    for (std::size_t s = 0; s < kStreams; ++s) {
      if (!current->uses[s] || s == kCompute) continue;
      device.record(join[s].get(), streams[s].get());
      device.wait(stream(Stream::compute), join[s].get());
    }
  }

  void enqueue(const Instr& in, InstrId i, StreamHandle s) {
    std::array<const std::byte*, kMaxOperands> read;
    std::array<std::byte*, kMaxOperands> written;
    for (std::size_t k = 0; k < in.reads.size(); ++k) read[k] = address(in.reads[k]);
    for (std::size_t k = 0; k < in.writes.size(); ++k) written[k] = address(in.writes[k]);
    std::span reads = std::span(read).first(in.reads.size());
    std::span writes = std::span(written).first(in.writes.size());
    if (auto* load = std::get_if<Load>(&in.op)) {
      const auto& pinned = *current->input.at(i);
      auto rows = static_cast<std::size_t>(load->rows);
      for (std::size_t k = 0; k < writes.size(); ++k)
        device.copy(writes[k], pinned.get() + k * rows, rows * sizeof(std::int32_t), s);
    } else if (auto* gemm = std::get_if<Gemm>(&in.op)) {
      device.multiply(*gemm, reads, writes, s);
    } else if (auto* collective = std::get_if<Collective>(&in.op)) {
      peers().collective(*collective, reads.empty() ? nullptr : reads[0], writes[0], s);
    } else if (auto* send = std::get_if<Send>(&in.op)) {
      peers().send(*send, reads[0], s);
    } else if (auto* recv = std::get_if<Recv>(&in.op)) {
      peers().recv(*recv, writes[0], s);
    } else if (attention.by_library.contains(in.op)) {
      attention.library->run(in.op, reads, writes, s);
    } else {
      LaunchContext here = context;  // streams may be issued by several threads
      here.flat_begin = flat_begin(in);
      device.launch(in.op, reads, writes, here, s);
    }
  }
  GpuCommunicator& peers() const {
    if (!communicator) throw Error("E0514", Exit::bug, "a single rank has nobody to talk to", "please report this plan");
    return *communicator;
  }

  void issue(InstrId i) {
    auto n = static_cast<std::size_t>(i);
    const Instr& in = now.program->instrs[n];
    StreamHandle s = stream(in.stream);
    if (timed) device.record(current->before[n].get(), s);
    enqueue(in, i, s);
    if (timed) device.record(current->after[n].get(), s);
    if (current->finished[n]) device.record(current->finished[n].get(), s);
  }
  void issue_wait(Stream s, InstrId i) { device.wait(stream(s), current->finished[static_cast<std::size_t>(i)].get()); }

  // Issues one stream's commands. A wait is for an event that another thread records, and must come after that.
  void issue_stream(std::size_t s) noexcept {
    try {
      device.bind();
      for (const Command& c : commands[s]) {
        auto n = static_cast<std::size_t>(c.instr);
        if (c.wait) {
          {
            std::unique_lock lock(mutex);
            changed.wait(lock, [&] { return issued[n] || failure; });
            if (failure) return;
          }
          issue_wait(static_cast<Stream>(s), c.instr);
        } else {
          issue(c.instr);
          std::lock_guard lock(mutex);
          issued[n] = true;
          changed.notify_all();
        }
      }
    } catch (const std::exception& e) {
      fail(e.what());
    } catch (...) {
      fail("unknown");
    }
  }
  void fail(const char* reason) noexcept {
    {
      std::lock_guard lock(mutex);
      if (!failure) failure = std::current_exception();
      changed.notify_all();
    }
    communicator->abort(fmt::format("rank {} failed: {}", where.rank, reason));
  }
  void issue_all_streams() {
    {
      std::vector<std::jthread> threads;
      for (std::size_t s = 0; s < kStreams; ++s)
        if (s != kCompute && !commands[s].empty()) threads.emplace_back([this, s] { issue_stream(s); });
      issue_stream(kCompute);
    }
    if (failure) std::rethrow_exception(std::exchange(failure, nullptr));
  }

  void stop_if_cancelled() const {
    if (cancelled)
      throw Error("E0602", Exit::rank_lost, "stopped at once, in the middle of a step",
                  "nothing was saved since the last checkpoint; --resume continues from there");
  }
  // Looks at the stream, the peers and a request to stop; sleeps in between, as another thread may need the core.
  void wait_until_done() {
    StreamHandle compute = stream(Stream::compute);
    for (int looks = 0; !device.idle(compute); ++looks) {
      stop_if_cancelled();
      if (communicator) communicator->check();
      if (looks > 100) std::this_thread::sleep_for(std::chrono::microseconds(50));
    }
    device.synchronize(compute);  // reports what went wrong on the way
  }

  void collect_times() {
    timeline.assign(now.program->instrs.size(), Span{});
    for (std::size_t i = 0; i < timeline.size(); ++i)
      timeline[i] = {device.between(fork.get(), current->before[i].get()), device.between(fork.get(), current->after[i].get())};
  }
};

CudaBackend::CudaBackend(Device& device, const Coordinates& where, GpuCommunicator* communicator, const Optimizer& optimizer,
                         const AttentionChoices& attention, const Program& program, std::byte* arena, std::byte* host)
    : state_(std::make_unique<State>(device, where, communicator, optimizer, attention, program, arena, host)) {}
CudaBackend::~CudaBackend() = default;

Bytes CudaBackend::reserve() const {
  const State& s = *state_;
  return Bytes{static_cast<std::int64_t>(s.host_segments.size() * sizeof(Segment) + sizeof(AdamScalars)) +
               s.partial_count * static_cast<std::int64_t>(sizeof(double))};
}

void CudaBackend::begin(const Execution& execution, bool timed) {
  State& s = *state_;
  s.device.bind();
  s.now = execution;
  s.current = &s.prepare(*execution.program);
  s.timed = timed;
  s.replaying = !timed && s.current->graph;
  s.capturing = !timed && !s.replaying && !s.threaded();
  s.timeline.clear();
  s.stage_inputs();
  s.stop_if_cancelled();
  if (timed && s.current->before.empty())
    for (std::size_t i = 0; i < execution.program->instrs.size(); ++i) {
      s.current->before.emplace_back(s.device, s.device.make_event(true));
      s.current->after.emplace_back(s.device, s.device.make_event(true));
    }
  for (auto& c : s.commands) c.clear();
  s.issued.assign(execution.program->instrs.size(), false);
  if (s.replaying) return;
  if (s.capturing) s.device.begin_capture(s.stream(Stream::compute));
  s.fork_streams();
}

void CudaBackend::cancel() noexcept {
  state_->cancelled = true;
  if (state_->threaded()) state_->communicator->abort("stopped at once");  // else nobody waits on the host
}

void CudaBackend::wait(Stream stream, InstrId i) {
  State& s = *state_;
  if (s.replaying) return;
  if (s.threaded()) s.commands[static_cast<std::size_t>(stream)].push_back({i, true});
  else s.issue_wait(stream, i);
}

void CudaBackend::launch(const Program& program, InstrId i) {
  State& s = *state_;
  if (s.replaying) return;
  if (s.threaded()) s.commands[static_cast<std::size_t>(program.instrs[static_cast<std::size_t>(i)].stream)].push_back({i, false});
  else s.issue(i);
}

void CudaBackend::synchronize() {
  State& s = *state_;
  StreamHandle compute = s.stream(Stream::compute);
  if (s.threaded()) s.issue_all_streams();
  if (!s.replaying) s.join_streams();
  if (s.capturing) s.current->graph = OwnedGraph(s.device, s.device.end_capture(compute));
  if (s.current->graph && !s.timed) s.device.launch(s.current->graph.get(), compute);
  s.wait_until_done();
  if (s.timed) s.collect_times();
}

const Timeline& CudaBackend::timeline() const { return state_->timeline; }

}  // namespace llmplan::cuda
