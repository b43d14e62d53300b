#include "tests/executor/emulated_device.h"

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <cstring>
#include <ctime>
#include <deque>
#include <functional>
#include <map>
#include <mutex>
#include <random>
#include <set>
#include <stdexcept>
#include <thread>

#include "executor/cuda/device_rank.h"
#include "executor/cuda/dispatch.h"
#include "executor/cuda/emulate.h"
#include "executor/cuda/gemm_call.h"
#include "executor/cuda/shared_gpu.h"
#include "tests/executor/made_up_attention.h"

namespace llmplan::cuda::test {
namespace {

// The card's time is what this process computes: other work on the machine must not make a kernel look slow.
struct Clock {
  using duration = std::chrono::nanoseconds;
  using rep = duration::rep;
  using period = duration::period;
  using time_point = std::chrono::time_point<Clock>;
  static constexpr bool is_steady = true;
  static time_point now() {
    timespec t{};
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return time_point(std::chrono::seconds(t.tv_sec) + std::chrono::nanoseconds(t.tv_nsec));
  }
};

[[noreturn]] void misuse(const char* what) { throw std::logic_error(std::string("emulated GPU: ") + what); }

struct Event;
struct Queue;
// One entry of a stream: something to do, the reaching of an event, or the wait for one.
struct Work {
  std::function<void()> body;
  Event* reaches = nullptr;
  Event* waits = nullptr;
  std::uint64_t record = 0;  // which of the event's records
};
struct Node {  // of a captured graph
  Work work;
  std::set<std::size_t> after;
};
struct Graph {
  std::vector<Node> nodes;
};
struct Capture {
  Queue* origin = nullptr;
  std::vector<Node> nodes;
  std::map<Queue*, std::set<std::size_t>> last;    // what a stream's next work comes after
  std::map<Event*, std::set<std::size_t>> recorded;
};
struct Queue {  // a stream
  std::deque<Work> queue;
  bool busy = false;  // its first entry is being carried out
};
struct Event {
  bool timed = false;
  std::uint64_t records = 0, reached = 0;
  Clock::time_point at;
};

Queue* as(StreamHandle s) { return reinterpret_cast<Queue*>(s); }
Event* as(EventHandle e) { return reinterpret_cast<Event*>(e); }
Graph* as(GraphHandle g) { return reinterpret_cast<Graph*>(g); }

float widened(DType t, const std::byte* at, std::int64_t i) {
  if (t == DType::fp32) return reinterpret_cast<const float*>(at)[i];
  if (t == DType::bf16) return to_float(reinterpret_cast<const BFloat16*>(at)[i]);
  if (t == DType::fp16) return to_float(reinterpret_cast<const Float16*>(at)[i]);
  if (t == DType::fp8_e4m3) return to_float(reinterpret_cast<const E4M3*>(at)[i]);
  if (t == DType::fp8_e5m2) return to_float(reinterpret_cast<const E5M2*>(at)[i]);
  misuse("a product of a type that it does not know");
}

// cuBLASLt's call: column-major, fp32 sums. `factors`: of both operands, where the call is scaled.
void carry_out(const LtCall& call, const std::byte* first, const std::byte* second, std::byte* result, const float* const (&factors)[2]) {
  const std::int64_t inner = call.transpose_first ? call.first.rows : call.first.columns;
  auto at = [](const LtMatrix& m, bool transposed, std::int64_t row, std::int64_t column) {
    if (transposed) std::swap(row, column);
    if (row >= m.rows || column >= m.columns) misuse("a product's operand is smaller than the product");
    return row + column * m.leading;
  };
  std::vector<float> a(static_cast<std::size_t>(call.result.rows * inner)), b(static_cast<std::size_t>(inner * call.result.columns));
  for (std::int64_t i = 0; i < call.result.rows; ++i)
    for (std::int64_t k = 0; k < inner; ++k)
      a[static_cast<std::size_t>(i * inner + k)] = widened(call.first.type, first, at(call.first, call.transpose_first, i, k));
  for (std::int64_t j = 0; j < call.result.columns; ++j)
    for (std::int64_t k = 0; k < inner; ++k)
      b[static_cast<std::size_t>(j * inner + k)] = widened(call.second.type, second, at(call.second, call.transpose_second, k, j));
  for (std::int64_t j = 0; j < call.result.columns; ++j)
    for (std::int64_t i = 0; i < call.result.rows; ++i) {
      float sum = 0;
      for (std::int64_t k = 0; k < inner; ++k) sum += a[static_cast<std::size_t>(i * inner + k)] * b[static_cast<std::size_t>(j * inner + k)];
      const std::int64_t to = at(call.result, false, i, j);
      if (call.scaled) sum *= *factors[0] * *factors[1];
      if (call.beta != 0) sum += call.beta * widened(call.result.type, result, to);
      if (call.result.type == DType::fp32) reinterpret_cast<float*>(result)[to] = sum;
      else if (call.result.type == DType::fp16) reinterpret_cast<Float16*>(result)[to] = from_float<Float16>(sum);
      else reinterpret_cast<BFloat16*>(result)[to] = from_float<BFloat16>(sum);
    }
}

std::map<std::string, std::int64_t> counts;
std::mutex counts_mutex;
void counted(const char* kind) {
  std::lock_guard lock(counts_mutex);
  ++counts[kind];
}

}  // namespace

class EmulatedCard {
 public:
  explicit EmulatedCard(unsigned seed) : random_(seed) {}

  Queue* make_stream() {
    std::lock_guard lock(mutex_);
    return streams_.emplace_back(std::make_unique<Queue>()).get();
  }
  void release(Queue* s) {
    std::unique_lock lock(mutex_);
    drain(lock, [&] { return s->queue.empty(); });
    std::erase_if(streams_, [&](auto& p) { return p.get() == s; });
  }
  void push(Queue* s, Work work) {
    std::lock_guard lock(mutex_);
    s->queue.push_back(std::move(work));
    changed_.notify_all();
  }
  void record(Event* e, Queue* s) {
    std::lock_guard lock(mutex_);
    s->queue.push_back({{}, e, nullptr, ++e->records});
    changed_.notify_all();
  }
  void wait(Queue* s, Event* e) {
    std::lock_guard lock(mutex_);
    if (e->records == 0) misuse("a stream waits for an event that was never recorded; CUDA would not wait");
    s->queue.push_back({{}, nullptr, e, e->records});
  }
  // Carries out one entry if any may start; whether the stream is then done.
  bool idle(Queue* s) {
    std::unique_lock lock(mutex_);
    if (!s->queue.empty()) step(lock);
    return s->queue.empty();
  }
  // Everything that was enqueued, of all ranks: what freeing memory waits for on a GPU.
  void finish() {
    std::unique_lock lock(mutex_);
    drain(lock, [&] { return std::all_of(streams_.begin(), streams_.end(), [](auto& s) { return s->queue.empty(); }); });
  }
  void synchronize(Queue* s) {
    std::unique_lock lock(mutex_);
    drain(lock, [&] { return s->queue.empty(); });
  }

 private:
  template <class Done>
  void drain(std::unique_lock<std::mutex>& lock, Done done) {
    while (!done())
      if (!step(lock)) changed_.wait_for(lock, std::chrono::milliseconds(1));  // another thread works or will enqueue
  }
  // Any stream's first entry that may start.
  bool step(std::unique_lock<std::mutex>& lock) {
    std::vector<Queue*> ready;
    for (auto& s : streams_)
      if (!s->busy && !s->queue.empty() && !(s->queue.front().waits && s->queue.front().waits->reached < s->queue.front().record))
        ready.push_back(s.get());
    if (ready.empty()) return false;
    Queue* s = ready[std::uniform_int_distribution<std::size_t>(0, ready.size() - 1)(random_)];
    s->busy = true;
    Work& work = s->queue.front();  // a deque's front stays where it is while others are added
    if (work.body) {
      lock.unlock();
      work.body();
      lock.lock();
    }
    if (work.reaches) {
      work.reaches->reached = work.record;
      work.reaches->at = Clock::now();
    }
    s->queue.pop_front();
    s->busy = false;
    changed_.notify_all();
    return true;
  }

  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<std::unique_ptr<Queue>> streams_;
  std::mt19937 random_;
};

namespace {

class EmulatedDevice final : public Device {
 public:
  explicit EmulatedDevice(std::shared_ptr<EmulatedCard> card) : card_(std::move(card)) {
    if (Offer::current())
      attention_ = make_library(*Offer::current(), [this](StreamHandle s, std::function<void()> body) { enqueue("attention", s, std::move(body)); });
  }

  void bind() override {}
  std::string bus() const override { return "emulated"; }
  void* allocate(std::size_t bytes) override {
    if (capture_) misuse("allocation while capturing");
    return ::operator new(bytes, std::align_val_t{256});
  }
  void* allocate_pinned(std::size_t bytes) override { return allocate(bytes); }
  void release(void* at) noexcept override {
    card_->finish();
    ::operator delete(at, std::align_val_t{256});
  }
  void release_pinned(void* at) noexcept override { release(at); }
  void fill(void* to, int byte, std::size_t bytes) override { std::memset(to, byte, bytes); }
  void transfer(void* to, const void* from, std::size_t bytes) override { std::memcpy(to, from, bytes); }
  Bytes reserve() const override { return {}; }

  StreamHandle make_stream() override { return reinterpret_cast<StreamHandle>(card_->make_stream()); }
  EventHandle make_event(bool timed) override { return reinterpret_cast<EventHandle>(new Event{timed, 0, 0, {}}); }
  void release(StreamHandle s) noexcept override { card_->release(as(s)); }
  void release(EventHandle e) noexcept override {
    card_->finish();
    delete as(e);
  }
  void release(GraphHandle g) noexcept override { delete as(g); }

  void record(EventHandle e, StreamHandle s) override {
    if (!capture_) return card_->record(as(e), as(s));
    capture_->recorded[as(e)] = joined(s);
  }
  void wait(StreamHandle s, EventHandle e) override {
    if (!capture_) return card_->wait(as(s), as(e));
    auto found = capture_->recorded.find(as(e));
    if (found == capture_->recorded.end()) misuse("a captured wait for an event from outside the capture");
    capture_->last[as(s)].insert(found->second.begin(), found->second.end());
  }
  bool idle(StreamHandle s) override { return card_->idle(as(s)); }
  void synchronize(StreamHandle s) override {
    if (capture_) misuse("synchronization while capturing");
    card_->synchronize(as(s));
  }
  Seconds between(EventHandle from, EventHandle to) override {
    if (!as(from)->timed || !as(to)->timed) misuse("the time of an event that keeps none");
    return {std::chrono::duration<double>(as(to)->at - as(from)->at).count()};
  }

  void copy(void* to, const void* from, std::size_t bytes, StreamHandle s) override {
    enqueue("copy", s, [=] { std::memmove(to, from, bytes); });
  }
  void multiply(const Gemm& op, std::span<const std::byte* const> reads, std::span<std::byte* const> writes,
                StreamHandle s) override {
    const LtCall call = lt_call(op);
    const auto* factor_a = call.scaled ? reinterpret_cast<const float*>(reads[2]) : nullptr;
    const auto* factor_b = call.scaled ? reinterpret_cast<const float*>(reads[3]) : nullptr;
    enqueue("product", s, [=, a = reads[0], b = reads[1], c = writes[0]] { carry_out(call, b, a, c, {factor_a, factor_b}); });
  }
  void launch(const Op& op, std::span<const std::byte* const> reads, std::span<std::byte* const> writes,
              const LaunchContext& context, StreamHandle s) override {
    std::visit(Dispatch<Enqueue>{{reads, writes}, context, {this, s}}, op);
  }
  void rank_sum(DType type, std::int64_t elements, std::span<const std::byte* const> in, std::byte* out, StreamHandle s) override {
    counted("sum");
    dispatch_rank_sum(type, elements, in, out, Enqueue{this, s});
  }
  AttentionLibrary* attention_library(std::string& why_not) override {
    if (!attention_) why_not = "an emulated card has no library";
    return attention_.get();
  }
  void tune(const std::vector<Op>&) override {}

  void begin_capture(StreamHandle s) override {
    capture_ = std::make_unique<Capture>();
    capture_->origin = as(s);
    capture_->last[as(s)];
  }
  GraphHandle end_capture(StreamHandle s) override {
    if (!capture_ || capture_->origin != as(s)) misuse("the end of a capture on another stream");
    // What no other node comes after must lie before the origin's end, else a stream was left out.
    std::set<std::size_t> before = capture_->last[as(s)];
    for (auto n = capture_->nodes.size(); n-- > 0;)
      if (before.contains(n)) before.insert(capture_->nodes[n].after.begin(), capture_->nodes[n].after.end());
    if (before.size() != capture_->nodes.size()) misuse("a captured stream does not join the one that began");
    auto* graph = new Graph{std::move(capture_->nodes)};
    capture_.reset();
    return reinterpret_cast<GraphHandle>(graph);
  }
  void launch(GraphHandle g, StreamHandle s) override {
    enqueue("graph", s, [graph = as(g), seed = graphs_++] {
      std::mt19937 random(seed);
      std::vector<bool> done(graph->nodes.size());
      for (std::size_t left = done.size(); left > 0; --left) {
        std::vector<std::size_t> ready;
        for (std::size_t n = 0; n < done.size(); ++n)
          if (!done[n] && std::all_of(graph->nodes[n].after.begin(), graph->nodes[n].after.end(), [&](auto a) { return done[a]; }))
            ready.push_back(n);
        const std::size_t n = ready[std::uniform_int_distribution<std::size_t>(0, ready.size() - 1)(random)];
        graph->nodes[n].work.body();
        done[n] = true;
      }
    });
  }

 private:
  struct Enqueue {  // what dispatch.h calls with every kernel
    EmulatedDevice* device;
    StreamHandle stream;
    template <class Kernel>
    void operator()(const Kernel& kernel) const {
      device->enqueue("kernel", stream, [kernel] { emulate(kernel); });
    }
  };

  const std::set<std::size_t>& joined(StreamHandle s) const {
    auto found = capture_->last.find(as(s));
    if (found == capture_->last.end()) misuse("a stream is used in a capture that it did not join");
    return found->second;
  }
  void enqueue(const char* kind, StreamHandle s, std::function<void()> body) {
    counted(kind);
    if (!capture_) return card_->push(as(s), {std::move(body), nullptr, nullptr, 0});
    Node node;
    node.work.body = std::move(body);
    node.after = joined(s);
    capture_->last[as(s)] = {capture_->nodes.size()};
    capture_->nodes.push_back(std::move(node));
  }

  std::shared_ptr<EmulatedCard> card_;
  std::unique_ptr<AttentionLibrary> attention_;
  std::unique_ptr<Capture> capture_;
  unsigned graphs_ = 1;
};

std::shared_ptr<EmulatedCard> current_card;

std::vector<GpuInfo> devices() { return {{"Emulated", Bytes{1LL << 34}, Bytes{1LL << 34}, 1, 8, 0, {1e9}, {1e9}, "emulated"}}; }
std::string versions() { return "emulated"; }
std::string nccl_unique_id() { misuse("one card needs no NCCL"); }
std::shared_ptr<GpuPeers> make_peers(int tp, int dp, int pp) { return std::make_shared<SharedGpu>(tp, dp, pp); }
std::unique_ptr<GpuRank> make_rank(const GpuRankOptions& options) {
  auto device = make_emulated_device(current_card);
  auto communicator = shared_communicator(*device, options);
  return make_device_rank(std::move(device), std::move(communicator), options);
}

}  // namespace

std::shared_ptr<EmulatedCard> make_emulated_card(unsigned seed) { return std::make_shared<EmulatedCard>(seed); }
std::unique_ptr<Device> make_emulated_device(std::shared_ptr<EmulatedCard> card) {
  return std::make_unique<EmulatedDevice>(std::move(card));
}

EmulatedMachine::EmulatedMachine(unsigned seed)
    : api_{kGpuApi, devices, versions, nccl_unique_id, make_peers, make_rank}, library_{&api_, ""} {
  current_card = make_emulated_card(seed);
  counts.clear();
  use_gpu_library(&library_);
}
EmulatedMachine::~EmulatedMachine() {
  use_gpu_library(nullptr);
  current_card.reset();
}
std::int64_t EmulatedMachine::count(const std::string& kind) const {
  std::lock_guard lock(counts_mutex);
  return counts[kind];
}

}  // namespace llmplan::cuda::test
