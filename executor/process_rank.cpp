// Ranks that are processes of their own, forked from this one. Arenas lie in memory that all of them share,
// so the parent reads and writes them as if they were its own, and collectives go from arena to arena. The
// parent holds one end of a socket per rank: a command and a reply per execution of a program, and the end
// of the stream when the rank is gone, whatever it died of.
#include <fmt/format.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <thread>

#include "costmodel/estimate.h"
#include "executor/arena.h"
#include "executor/cpu/cpu_backend.h"
#include "executor/local_comm.h"
#include "executor/memory.h"
#include "executor/rank.h"

namespace llmplan {
namespace {

// Forking keeps addresses: a command's pointers to programs mean the same on both sides.
static_assert(std::is_trivially_copyable_v<Execution>);

struct Reply {
  bool failed, followed;  // followed: because of another rank
  Exit exit;
  char code[8], message[2000], hint[2000];
};

// What is too large or too frequent for the socket.
struct Mailbox {
  std::span<std::int32_t> ids, targets;  // of the rank's samples in this step
  std::span<Span> timeline;
};

std::string signal_name(int signal) { return fmt::format("signal {} ({})", signal, ::strsignal(signal)); }

Reply describe_failure() {
  Reply r{};
  r.failed = true;
  auto say = [&](Exit exit, const std::string& code, const std::string& message, const std::string& hint) {
    r.exit = exit;
    code.copy(r.code, sizeof r.code - 1);
    message.copy(r.message, sizeof r.message - 1);
    hint.copy(r.hint, sizeof r.hint - 1);
  };
  try {
    throw;
  } catch (const RunStopped& e) {
    r.followed = true;
    say(e.exit, e.code, e.message, e.hint);
  } catch (const Error& e) {
    say(e.exit, e.code, e.message, e.hint);
  } catch (const std::exception& e) {
    say(Exit::bug, "E0001", e.what(), "please report this plan");
  }
  return r;
}

// The life of a rank's process.
[[noreturn]] void serve(const RankOptions& o, LocalWorld& world, const Arena& device, const Arena& host, const Mailbox& box,
                        int threads, int socket) {
  try {
    auto communicator = world.communicator(o.where.rank);
    cpu::CpuBackend backend(o.where, *communicator, o.plan->workload.optimizer, threads, device.data(), host.data());
    Execution now;
    const SampleSource samples = [&](std::int64_t i, std::span<std::int32_t> ids, std::span<std::int32_t> targets) {
      const std::int64_t at = (i - o.where.dp * now.samples_per_rank) * static_cast<std::int64_t>(ids.size());
      std::copy_n(box.ids.begin() + at, ids.size(), ids.begin());
      std::copy_n(box.targets.begin() + at, targets.size(), targets.begin());
    };
    while (::recv(socket, &now, sizeof now, 0) == static_cast<ssize_t>(sizeof now)) {
      now.samples = &samples;
      Reply reply{};
      try {
        backend.begin(now);
        std::ranges::copy(execute(*now.program, backend), box.timeline.begin());
      } catch (...) {
        reply = describe_failure();
      }
      if (::send(socket, &reply, sizeof reply, MSG_NOSIGNAL) < 0) break;
    }
  } catch (...) {
    const Reply reply = describe_failure();
    [[maybe_unused]] const ssize_t sent = ::send(socket, &reply, sizeof reply, MSG_NOSIGNAL);
  }
  ::_exit(0);  // the parent's files and buffers are not this process's to close
}

class ProcessRank : public Rank {
 public:
  ProcessRank(const RankOptions& o, LocalWorld& world)
      : options_(o), world_(world), device_(o.device_arena, Arena::Use::shared), host_(o.host_arena, Arena::Use::shared),
        memory_(room(o)) {
    const auto tokens = static_cast<std::size_t>(most_tokens(o)), spans = most_spans(o);
    box_.ids = {memory_.take<std::int32_t>(tokens), tokens};
    box_.targets = {memory_.take<std::int32_t>(tokens), tokens};
    box_.timeline = {memory_.take<Span>(spans), spans};
  }
  ~ProcessRank() override {
    if (socket_ >= 0) ::close(socket_);
    if (pid_ <= 0) return;
    ::kill(pid_, SIGKILL);  // nothing but the arena is its own
    ::waitpid(pid_, nullptr, 0);
  }

  // All arenas and mailboxes exist by now; `others` are the parent's ends of earlier ranks' sockets.
  int start(int threads, const std::vector<int>& others) {
    int ends[2];
    if (::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) != 0) refuse("a socket");
    const pid_t parent = ::getpid();
    pid_ = ::fork();
    if (pid_ < 0) {
      ::close(ends[0]);
      ::close(ends[1]);
      refuse("a process");
    }
    if (pid_ == 0) {
      ::prctl(PR_SET_PDEATHSIG, SIGKILL);  // no orphans, even if the parent is killed
      if (::getppid() != parent) ::_exit(1);
      ::prctl(PR_SET_NAME, fmt::format("llmplan rank {}", options_.where.rank).c_str());
      // Ctrl-C reaches the whole group, a scheduler's SIGTERM every process; the parent answers for all.
      std::signal(SIGINT, SIG_IGN);
      std::signal(SIGTERM, SIG_IGN);
      for (int fd : others) ::close(fd);  // held open here, they would hide that another rank's end closed
      ::close(ends[0]);
      serve(options_, world_, device_, host_, box_, threads, ends[1]);
    }
    ::close(ends[1]);
    return socket_ = ends[0];
  }

  Bytes arena() const override { return device_.allocated(); }
  Bytes beside() const override { return pid_ > 0 ? process_private(pid_) : Bytes{}; }
  void read(Bytes offset, std::span<std::byte> out) const override {
    std::memcpy(out.data(), device_.data() + offset.value, out.size());
  }
  void write(Bytes offset, std::span<const std::byte> in) override {
    std::memcpy(device_.data() + offset.value, in.data(), in.size());
  }

  Timeline run(const Execution& execution, bool) override {
    try {
      load(execution);
    } catch (const std::exception& e) {
      world_.abort(fmt::format("rank {} failed: {}", options_.where.rank, e.what()));
      throw;
    }
    Reply reply;
    if (::send(socket_, &execution, sizeof execution, MSG_NOSIGNAL) < 0) lost();
    ssize_t got;
    while ((got = ::recv(socket_, &reply, sizeof reply, 0)) < 0 && errno == EINTR) {}
    if (got != static_cast<ssize_t>(sizeof reply)) lost();
    if (reply.followed) throw RunStopped(world_.why_stopped());
    if (reply.failed) throw Error(reply.code, reply.exit, reply.message, reply.hint);
    return {box_.timeline.begin(), box_.timeline.begin() + static_cast<std::ptrdiff_t>(execution.program->instrs.size())};
  }
  void cancel() noexcept override {
    if (pid_ > 0) ::kill(pid_, SIGKILL);
  }

 private:
  static std::int64_t most_tokens(const RankOptions& o) {
    const Workload& w = o.plan->workload;
    return std::max(w.global_batch / o.plan->strategy.dp, o.plan->strategy.micro_batch) * sequence_length(o.plan->model, w);
  }
  static std::size_t most_spans(const RankOptions& o) {
    std::size_t most = 0;
    for (const Program* p : o.programs) most = std::max(most, p->instrs.size());
    return most;
  }
  static std::size_t room(const RankOptions& o) {
    return 2 * SharedMemory::room_for<std::int32_t>(static_cast<std::size_t>(most_tokens(o))) +
           SharedMemory::room_for<Span>(most_spans(o));
  }

  // The samples that this rank will load, where its process finds them.
  void load(const Execution& e) {
    const auto& instrs = e.program->instrs;
    auto load = std::find_if(instrs.begin(), instrs.end(), [](const Instr& i) { return std::holds_alternative<Load>(i.op); });
    if (load == instrs.end()) return;
    const auto seq = static_cast<std::size_t>(std::get<Load>(load->op).rows / e.samples_per_micro_batch);
    for (std::int64_t k = 0; k < e.samples_per_rank; ++k) {
      const std::size_t at = static_cast<std::size_t>(k) * seq;
      (*e.samples)(options_.where.dp * e.samples_per_rank + k, box_.ids.subspan(at, seq), box_.targets.subspan(at, seq));
    }
  }

  [[noreturn]] void lost() {
    int status = 0;
    ::waitpid(pid_, &status, 0);
    const std::string how = WIFSIGNALED(status) ? "was killed by " + signal_name(WTERMSIG(status))
                                                : fmt::format("ended with exit code {}", WEXITSTATUS(status));
    std::string who = name_of(options_.where);
    who.insert(who.size() - 1, fmt::format("; pid {}", pid_));
    const std::string reason = fmt::format("{} {}", who, how);
    pid_ = -1;
    world_.abort(reason);
    throw Error("E0601", Exit::rank_lost, reason,
                WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL
                    ? "if nobody killed it, the system did, for lack of memory (dmesg tells); --resume continues"
                    : "--resume continues from the last checkpoint");
  }
  [[noreturn]] static void refuse(const char* what) {
    throw Error("E0508", Exit::environment, fmt::format("the system refuses {} for a rank: {}", what, std::strerror(errno)),
                "raise the limit (ulimit -u, ulimit -n), or run the ranks as threads, without --processes");
  }

  const RankOptions options_;
  LocalWorld& world_;
  Arena device_, host_;
  SharedMemory memory_;
  Mailbox box_;
  pid_t pid_ = -1;
  int socket_ = -1;
};

}  // namespace

std::vector<std::unique_ptr<Rank>> make_process_ranks(const std::vector<RankOptions>& options, LocalWorld& world) {
  std::vector<std::unique_ptr<Rank>> ranks;
  for (const RankOptions& o : options) ranks.push_back(std::make_unique<ProcessRank>(o, world));
  const int cores = std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
  std::vector<int> sockets;
  for (auto& rank : ranks)
    sockets.push_back(static_cast<ProcessRank&>(*rank).start(std::max(1, cores / world.size()), sockets));
  return ranks;
}

}  // namespace llmplan
