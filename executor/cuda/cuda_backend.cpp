#include "executor/cuda/cuda_backend.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <map>
#include <vector>

#include "costmodel/error.h"
#include "executor/cuda/gemm.h"
#include "executor/cuda/launch.h"
#include "executor/cuda/status.h"

namespace llmplan::cuda {
namespace {

constexpr std::size_t kMaxOperands = 8;

// Parameters as the optimizer's kernels want them. Norms (tp-replicated) count once per tp group, what dp ranks
// duplicate once per dp group, the second copy of a tied embedding never.
std::vector<Segment> segments(const Program& program, const Coordinates& where) {
  std::vector<Segment> all;
  bool dp_duplicates = true;  // without ZeRO every dp rank holds the same gradients
  for (const Instr& in : program.instrs)
    if (auto* op = std::get_if<GradStats>(&in.op)) dp_duplicates = op->shards == 1;
  for (const Param& p : program.params) {
    bool counted = p.counted && (p.tp_dim >= 0 || where.tp == 0) && (!dp_duplicates || where.dp == 0);
    all.push_back({p.begin, p.begin + p.elements(), p.decay, counted});
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

// One allocation each, owned.
template <class T>
class OnDevice {
 public:
  explicit OnDevice(std::size_t count) { check(cudaMalloc(&at_, std::max<std::size_t>(count, 1) * sizeof(T)), "backend"); }
  ~OnDevice() { cudaFree(at_); }
  OnDevice(const OnDevice&) = delete;
  OnDevice& operator=(const OnDevice&) = delete;
  T* get() const { return static_cast<T*>(at_); }

 private:
  void* at_ = nullptr;
};
template <class T>
class Pinned {
 public:
  explicit Pinned(std::size_t count) { check(cudaMallocHost(&at_, std::max<std::size_t>(count, 1) * sizeof(T)), "pinned"); }
  ~Pinned() { cudaFreeHost(at_); }
  Pinned(const Pinned&) = delete;
  Pinned& operator=(const Pinned&) = delete;
  T* get() const { return static_cast<T*>(at_); }

 private:
  void* at_ = nullptr;
};

struct Event {
  explicit Event(unsigned flags) { check(cudaEventCreateWithFlags(&event, flags), "event"); }
  ~Event() { cudaEventDestroy(event); }
  Event(const Event&) = delete;
  Event& operator=(const Event&) = delete;
  cudaEvent_t event = nullptr;
};

// What a program keeps from one execution to the next.
struct Prepared {
  std::vector<std::unique_ptr<Event>> finished;       // by InstrId; null where nobody waits
  std::vector<std::unique_ptr<Event>> before, after;  // by InstrId, timed executions only
  std::map<InstrId, std::unique_ptr<Pinned<std::int32_t>>> input;  // ids then targets of each Load
  std::array<bool, kStreams> uses{};
  cudaGraphExec_t graph = nullptr;

  ~Prepared() { if (graph) cudaGraphExecDestroy(graph); }
};

}  // namespace

struct CudaBackend::State {
  int device;
  Coordinates where;
  GpuCommunicator* communicator;
  const Optimizer& optimizer;
  std::array<std::byte*, 2> base;  // by Space
  std::array<cudaStream_t, kStreams> streams{};
  OnDevice<std::byte> workspace{kGemmWorkspace};
  Gemms gemms{workspace.get()};
  std::vector<Segment> host_segments;
  OnDevice<Segment> device_segments;
  OnDevice<double> partial;
  OnDevice<AdamScalars> scalars{1};
  Pinned<AdamScalars> host_scalars{1};
  Event fork{cudaEventDefault};  // also the zero of the timeline
  std::array<std::unique_ptr<Event>, kStreams> join;
  LaunchContext context;

  std::map<const Program*, Prepared> prepared;
  Execution now;
  Prepared* current = nullptr;
  bool timed = false, capturing = false, replaying = false;
  Timeline timeline;

  State(int d, const Coordinates& w, GpuCommunicator* c, const Optimizer& o, const Program& program, std::byte* arena, std::byte* host)
      : device(d), where(w), communicator(c), optimizer(o), base{arena, host}, host_segments(segments(program, w)),
        device_segments(host_segments.size()), partial(static_cast<std::size_t>(partial_doubles(largest_slice(program)))) {
    check(cudaMemcpy(device_segments.get(), host_segments.data(), host_segments.size() * sizeof(Segment), cudaMemcpyHostToDevice), "segments");
    for (auto& s : streams) check(cudaStreamCreateWithFlags(&s, cudaStreamNonBlocking), "stream");
    for (auto& j : join) j = std::make_unique<Event>(cudaEventDisableTiming);
    context.where = w;
    context.optimizer = &optimizer;
    context.segments = device_segments.get();
    context.segment_count = static_cast<std::int64_t>(host_segments.size());
    context.scalars = scalars.get();
    context.partial = partial.get();
    context.counts_loss = w.tp == 0;
  }
  ~State() {
    prepared.clear();
    for (auto s : streams) if (s) cudaStreamDestroy(s);
  }

  cudaStream_t stream(Stream s) const { return streams[static_cast<std::size_t>(s)]; }
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
        if (auto& e = p.finished[static_cast<std::size_t>(w)]; !e) e = std::make_unique<Event>(cudaEventDisableTiming);
      if (auto* load = std::get_if<Load>(&in.op)) p.input[i] = std::make_unique<Pinned<std::int32_t>>(static_cast<std::size_t>(2 * load->rows));
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
        (*now.samples)(first + k, {pinned->get() + k * seq, length}, {pinned->get() + rows + k * seq, length});
      }
    }
    host_scalars.get()->learning_rate = now.step.learning_rate;
    host_scalars.get()->correction1 = 1 - std::pow(optimizer.beta1, static_cast<double>(now.step.step));
    host_scalars.get()->correction2 = 1 - std::pow(optimizer.beta2, static_cast<double>(now.step.step));
  }

  // All streams start after the compute stream's first node, and it ends after all of theirs: what a capture needs.
  void fork_streams() {
    cudaStream_t compute = stream(Stream::compute);
    check(cudaMemcpyAsync(scalars.get(), host_scalars.get(), sizeof(AdamScalars), cudaMemcpyHostToDevice, compute), "scalars");
    check(cudaEventRecord(fork.event, compute), "fork");
    for (std::size_t s = 0; s < kStreams; ++s)
      if (current->uses[s] && streams[s] != compute) check(cudaStreamWaitEvent(streams[s], fork.event), "fork");
  }
  void join_streams() {
    for (std::size_t s = 0; s < kStreams; ++s) {
      if (!current->uses[s] || streams[s] == stream(Stream::compute)) continue;
      check(cudaEventRecord(join[s]->event, streams[s]), "join");
      check(cudaStreamWaitEvent(stream(Stream::compute), join[s]->event), "join");
    }
  }

  void enqueue(const Instr& in, InstrId i, cudaStream_t s) {
    if (std::holds_alternative<Load>(in.op)) {
      const auto& pinned = *current->input.at(i);
      auto rows = static_cast<std::size_t>(std::get<Load>(in.op).rows);
      for (std::size_t k = 0; k < in.writes.size(); ++k)
        check(cudaMemcpyAsync(address(in.writes[k]), pinned.get() + k * rows, rows * sizeof(std::int32_t), cudaMemcpyHostToDevice, s), "load");
    } else if (auto* gemm = std::get_if<Gemm>(&in.op)) {
      gemms.run(*gemm, address(in.reads[0]), address(in.reads[1]), address(in.writes[0]), s);
    } else if (auto* collective = std::get_if<Collective>(&in.op)) {
      peers().collective(*collective, in.reads.empty() ? nullptr : address(in.reads[0]), address(in.writes[0]), s);
    } else if (auto* send = std::get_if<Send>(&in.op)) {
      peers().send(*send, address(in.reads[0]), s);
    } else if (auto* recv = std::get_if<Recv>(&in.op)) {
      peers().recv(*recv, address(in.writes[0]), s);
    } else {
      std::array<const std::byte*, kMaxOperands> reads;
      std::array<std::byte*, kMaxOperands> writes;
      for (std::size_t k = 0; k < in.reads.size(); ++k) reads[k] = address(in.reads[k]);
      for (std::size_t k = 0; k < in.writes.size(); ++k) writes[k] = address(in.writes[k]);
      cuda::launch(in.op, std::span(reads).first(in.reads.size()), std::span(writes).first(in.writes.size()), context, s);
    }
  }
  GpuCommunicator& peers() const {
    if (!communicator) throw Error("E0514", Exit::bug, "a single rank has nobody to talk to", "please report this plan");
    return *communicator;
  }

  void collect_times() {
    cudaEvent_t zero = fork.event;
    timeline.assign(now.program->instrs.size(), Span{});
    for (std::size_t i = 0; i < timeline.size(); ++i) {
      float start = 0, finish = 0;
      check(cudaEventElapsedTime(&start, zero, current->before[i]->event), "timeline");
      check(cudaEventElapsedTime(&finish, zero, current->after[i]->event), "timeline");
      timeline[i] = {Seconds{start * 1e-3}, Seconds{finish * 1e-3}};
    }
  }
};

CudaBackend::CudaBackend(int device, const Coordinates& where, GpuCommunicator* communicator, const Optimizer& optimizer,
                         const Program& program, std::byte* arena, std::byte* host) {
  check(cudaSetDevice(device), "device");
  state_ = std::make_unique<State>(device, where, communicator, optimizer, program, arena, host);
}
CudaBackend::~CudaBackend() = default;

void CudaBackend::tune(int device, const std::vector<const Program*>& programs) {
  check(cudaSetDevice(device), "device");
  std::map<std::string, Gemm> shapes;
  for (const Program* p : programs)
    for (const Instr& in : p->instrs)
      if (auto* g = std::get_if<Gemm>(&in.op)) shapes.emplace(key(*g), *g);
  std::vector<Gemm> list;
  for (auto& [name, gemm] : shapes) list.push_back(gemm);
  OnDevice<std::byte> workspace(kGemmWorkspace);
  Gemms(workspace.get()).tune(list, gemm_cache_file(device));
}

void CudaBackend::begin(const Execution& execution, bool timed) {
  State& s = *state_;
  check(cudaSetDevice(s.device), "device");
  s.now = execution;
  s.current = &s.prepare(*execution.program);
  s.timed = timed;
  s.replaying = !timed && s.current->graph;
  s.capturing = !timed && !s.replaying;
  s.stage_inputs();
  if (timed && s.current->before.empty())
    for (std::size_t i = 0; i < execution.program->instrs.size(); ++i) {
      s.current->before.push_back(std::make_unique<Event>(cudaEventDefault));
      s.current->after.push_back(std::make_unique<Event>(cudaEventDefault));
    }
  if (s.replaying) return;
  if (s.capturing) {
    // Algorithms are chosen before the capture: choosing may allocate.
    std::vector<Gemm> shapes;
    for (const Instr& in : execution.program->instrs)
      if (auto* g = std::get_if<Gemm>(&in.op)) shapes.push_back(*g);
    s.gemms.tune(shapes, gemm_cache_file(s.device));
    check(cudaStreamBeginCapture(s.stream(Stream::compute), cudaStreamCaptureModeThreadLocal), "capture");
  }
  s.fork_streams();
}

void CudaBackend::wait(Stream stream, InstrId i) {
  State& s = *state_;
  if (!s.replaying) check(cudaStreamWaitEvent(s.stream(stream), s.current->finished[static_cast<std::size_t>(i)]->event), "wait");
}

void CudaBackend::launch(const Program& program, InstrId i) {
  State& s = *state_;
  if (s.replaying) return;
  auto n = static_cast<std::size_t>(i);
  const Instr& in = program.instrs[n];
  cudaStream_t stream = s.stream(in.stream);
  if (s.timed) check(cudaEventRecord(s.current->before[n]->event, stream), "time");
  s.enqueue(in, i, stream);
  if (s.timed) check(cudaEventRecord(s.current->after[n]->event, stream), "time");
  if (s.current->finished[n]) check(cudaEventRecord(s.current->finished[n]->event, stream), "record");
}

void CudaBackend::synchronize() {
  State& s = *state_;
  cudaStream_t compute = s.stream(Stream::compute);
  if (!s.replaying) s.join_streams();
  if (s.capturing) {
    cudaGraph_t graph = nullptr;
    check(cudaStreamEndCapture(compute, &graph), "capture");
    cudaError_t status = cudaGraphInstantiate(&s.current->graph, graph, 0);
    cudaGraphDestroy(graph);
    check(status, "graph");
  }
  if (!s.timed) check(cudaGraphLaunch(s.current->graph, compute), "graph");
  // With peers, a lost one must not leave us waiting for ever: look at both the stream and the communicator.
  while (s.communicator) {
    cudaError_t status = cudaStreamQuery(compute);
    if (status != cudaErrorNotReady) break;
    s.communicator->check();
  }
  check(cudaStreamSynchronize(compute), "step");
  if (s.timed) s.collect_times();
}

const Timeline& CudaBackend::timeline() const { return state_->timeline; }

Bytes backend_reserve(const Program& program) {
  return Bytes{static_cast<std::int64_t>(kGemmWorkspace + program.params.size() * sizeof(Segment) + sizeof(AdamScalars)) +
               partial_doubles(largest_slice(program)) * static_cast<std::int64_t>(sizeof(double))};
}

}  // namespace llmplan::cuda
