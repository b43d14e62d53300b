// What libllmplan_mpi.so offers (executor/mpi.h).
#include <mpi.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "executor/communicator.h"
#include "executor/mpi.h"

namespace llmplan {
namespace {

constexpr int kStopTag = kChannels;
constexpr std::size_t kLargest = std::size_t{1} << 30;  // bytes of one MPI message; its count is an int

class MpiTransport final : public Transport {
 public:
  MpiTransport() {
    int provided = MPI_THREAD_SINGLE;
    check(MPI_Init_thread(nullptr, nullptr, MPI_THREAD_MULTIPLE, &provided), "start");
    if (provided < MPI_THREAD_MULTIPLE)
      throw Error("E0515", Exit::environment, "this MPI does not allow calls from several threads",
                  "collectives and pipeline transfers run side by side; use an MPI with MPI_THREAD_MULTIPLE");
    check(MPI_Comm_dup(MPI_COMM_WORLD, &comm_), "duplicate");
    check(MPI_Comm_set_errhandler(comm_, MPI_ERRORS_RETURN), "error handler");
    check(MPI_Comm_rank(comm_, &rank_), "rank");
    check(MPI_Comm_size(comm_, &size_), "size");
    find_neighbours();
    watcher_ = std::thread([this] { watch(); });
  }
  ~MpiTransport() override {
    const std::uint64_t one = 1;
    [[maybe_unused]] const ssize_t told = ::write(wake_, &one, sizeof one);
    watcher_.join();
    for (const Neighbour& n : neighbours_) ::close(n.process);
    ::close(wake_);
    guard_->left = true;
    if (stopped_) return;  // the others are not there to finalize with; mpirun ends what is left
    MPI_Comm_free(&comm_);
    MPI_Finalize();
  }

  int rank() const override { return rank_; }
  std::string name() const override { return "mpi"; }
  int size() const override { return size_; }

  void exchange(Channel channel, std::span<const Outgoing> out, std::span<const Incoming> in) override {
    thread_local std::vector<MPI_Request> requests;
    requests.clear();
    const int tag = static_cast<int>(channel);
    auto pieces = [](auto bytes, auto post) {
      for (std::size_t at = 0; at < bytes.size(); at += kLargest) {
        const std::size_t n = std::min(kLargest, bytes.size() - at);
        post(bytes.data() + at, static_cast<int>(n), &requests.emplace_back());
      }
    };
    for (const Incoming& m : in)
      pieces(m.bytes, [&](std::byte* at, int n, MPI_Request* r) { check(MPI_Irecv(at, n, MPI_BYTE, m.peer, tag, comm_, r), "receive"); });
    for (const Outgoing& m : out)
      pieces(m.bytes, [&](const std::byte* at, int n, MPI_Request* r) { check(MPI_Isend(at, n, MPI_BYTE, m.peer, tag, comm_, r), "send"); });
    wait(requests);
  }

  void when_stuck(std::function<void(const std::string&)> last_words) override {
    std::lock_guard lock(guard_->mutex);
    guard_->last_words = std::move(last_words);
  }

  void stop(const std::string& reason) noexcept override {
    if (!note(reason)) return;
    // The text must outlive the messages: the one to a rank that is gone will not complete.
    static std::string text;
    text = reason;
    std::vector<MPI_Request> requests;
    for (int peer = 0; peer < size_; ++peer)
      if (peer != rank_)
        MPI_Isend(text.data(), static_cast<int>(text.size()), MPI_BYTE, peer, kStopTag, comm_, &requests.emplace_back());
    const auto end = std::chrono::steady_clock::now() + std::chrono::milliseconds(100);
    for (int done = 0; !done && std::chrono::steady_clock::now() < end;) {
      MPI_Testall(static_cast<int>(requests.size()), requests.data(), &done, MPI_STATUSES_IGNORE);
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
  }

 private:
  static void check(int status, const char* what) {
    if (status == MPI_SUCCESS) return;
    char text[MPI_MAX_ERROR_STRING] = "";
    int length = 0;
    MPI_Error_string(status, text, &length);
    throw RunStopped(std::string("MPI could not ") + what + ": " + text);
  }

  // Open MPI may never return from a call once a peer is dead: it waits for mpirun to acknowledge a help text, while
  // mpirun is ending the job. So a process that has not left in time says why and ends without the library, before
  // mpirun kills it (1 s after it noticed).
  struct Guard {
    std::mutex mutex;
    std::function<void(const std::string&)> last_words;
    std::string reason;  // the first that was known
    std::atomic<bool> left = false;
  };
  static void guard(std::shared_ptr<Guard> g, std::string lost) {
    constexpr auto kOrderly = std::chrono::milliseconds(400), kExit = std::chrono::milliseconds(500);
    std::this_thread::sleep_for(kOrderly);
    if (!g->left) {
      std::lock_guard lock(g->mutex);
      if (g->last_words) g->last_words(g->reason.empty() ? lost : g->reason);
    } else {
      std::this_thread::sleep_for(kExit);
    }
    ::_exit(static_cast<int>(Exit::rank_lost));
  }

  // The other processes of this machine. mpirun takes a second or two to end them when one was killed; they can
  // see it at once, and say who it was.
  struct Neighbour { int rank, pid, process; };

  void find_neighbours() {
    MPI_Comm local = MPI_COMM_NULL;
    check(MPI_Comm_split_type(comm_, MPI_COMM_TYPE_SHARED, rank_, MPI_INFO_NULL, &local), "split");
    int count = 0;
    check(MPI_Comm_size(local, &count), "size");
    const Neighbour me{rank_, ::getpid(), -1};
    std::vector<Neighbour> all(static_cast<std::size_t>(count));
    check(MPI_Allgather(&me, sizeof me, MPI_BYTE, all.data(), sizeof me, MPI_BYTE, local), "gather");
    MPI_Comm_free(&local);
    for (Neighbour& n : all) {
      if (n.rank == rank_) continue;
      n.process = static_cast<int>(::syscall(SYS_pidfd_open, n.pid, 0));  // Linux 5.3; before, mpirun must do
      if (n.process >= 0) neighbours_.push_back(n);
    }
  }

  void watch() {
    std::vector<pollfd> polled{{wake_, POLLIN, 0}};
    for (const Neighbour& n : neighbours_) polled.push_back({n.process, POLLIN, 0});
    while (::poll(polled.data(), polled.size(), -1) < 0) {}
    if (polled[0].revents) return;
    for (std::size_t i = 0; i < neighbours_.size(); ++i) {
      if (!polled[i + 1].revents) continue;
      char host[64] = "";
      ::gethostname(host, sizeof host - 1);
      const std::string reason =
          "rank " + std::to_string(neighbours_[i].rank) + " (pid " + std::to_string(neighbours_[i].pid) + " on " + host + ") vanished";
      std::thread(guard, guard_, reason).detach();
      try {
        look_for_stop();  // one that left with a word
      } catch (const RunStopped&) {
      }
      return stop(reason);
    }
  }

  // MPI itself would wait by spinning, which takes the core from a rank that has work.
  void wait(std::vector<MPI_Request>& requests) {
    for (int tries = 0;; ++tries) {
      int done = 0;
      check(MPI_Testall(static_cast<int>(requests.size()), requests.data(), &done, MPI_STATUSES_IGNORE), "transfer");
      if (done) return;
      if (tries % 16 == 15) look_for_stop();
      if (stopped_) {
        std::lock_guard lock(mutex_);
        throw RunStopped(reason_);
      }
      // Sleeping, not yielding: who yields on a busy core goes behind everybody else on it.
      if (tries >= 50) std::this_thread::sleep_for(std::chrono::microseconds(20));
    }
  }

  void look_for_stop() {
    int there = 0;
    MPI_Message message;
    MPI_Status status;
    check(MPI_Improbe(MPI_ANY_SOURCE, kStopTag, comm_, &there, &message, &status), "probe");
    if (!there) return;
    int size = 0;
    MPI_Get_count(&status, MPI_BYTE, &size);
    std::string text(static_cast<std::size_t>(size), ' ');
    check(MPI_Mrecv(text.data(), size, MPI_BYTE, &message, &status), "receive");
    note(text);
  }

  // The first reason stands.
  bool note(const std::string& reason) {
    std::lock_guard lock(mutex_);
    if (stopped_) return false;
    reason_ = reason;
    stopped_ = true;
    std::lock_guard guarded(guard_->mutex);
    guard_->reason = reason;
    return true;
  }

  MPI_Comm comm_ = MPI_COMM_NULL;
  int rank_ = 0, size_ = 1;
  std::vector<Neighbour> neighbours_;
  int wake_ = ::eventfd(0, EFD_CLOEXEC);
  std::thread watcher_;
  std::shared_ptr<Guard> guard_ = std::make_shared<Guard>();
  std::mutex mutex_;
  std::atomic<bool> stopped_ = false;
  std::string reason_;
};

std::unique_ptr<Transport> start() { return std::make_unique<MpiTransport>(); }

std::string library() {
  char text[MPI_MAX_LIBRARY_VERSION_STRING] = "";
  int length = 0;
  MPI_Get_library_version(text, &length);
  const std::string whole(text, static_cast<std::size_t>(length));
  return whole.substr(0, whole.find_first_of(",\n"));
}

constexpr MpiApi kApi{kMpiApi, start, library};

}  // namespace
}  // namespace llmplan

extern "C" __attribute__((visibility("default"))) const llmplan::MpiApi* llmplan_mpi_api() { return &llmplan::kApi; }
