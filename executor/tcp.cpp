#include "executor/tcp.h"

#include <fmt/format.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <condition_variable>
#include <deque>
#include <mutex>
#include <random>
#include <thread>
#include <vector>

#include "executor/communicator.h"
#include "executor/socket.h"

namespace llmplan {
namespace {

using Clock = std::chrono::steady_clock;
using Bytes8 = std::vector<std::byte>;

// Said once per connection. All machines of a run have the same byte order, as they run the same binary.
struct Hello {
  std::uint64_t magic = 0x6c6c6d706c616e31;  // "llmplan1"
  std::uint64_t run = 0;                     // what rank 0 drew; 0 on the way to it
  std::int32_t rank = 0, size = 0, pid = 0;
  std::uint32_t address = 0;                 // in network order, as rank 0 saw it
  std::int32_t port = 0;                     // where the rank listens
  char host[64] = {};
};

struct Frame { std::uint64_t size; std::uint8_t kind; };  // kind: a Channel, or
constexpr std::uint8_t kStop = 254, kGoodbye = 255;

struct Peer {
  Socket socket;
  Hello who;
  std::mutex sending;
  bool left = false;                                // said goodbye
  std::array<std::deque<Bytes8>, kChannels> inbox;  // under the transport's mutex
  // What the reading thread has of the next message.
  Frame frame{};
  Bytes8 body;
  std::size_t got = 0;
};

class TcpTransport final : public Transport {
 public:
  explicit TcpTransport(const Meeting& m) : rank_(m.rank), peers_(static_cast<std::size_t>(m.size)), wake_(::eventfd(0, EFD_CLOEXEC)) {
    const auto end = Clock::now() + std::chrono::milliseconds(static_cast<std::int64_t>(m.patience * 1000));
    int port = m.port;
    const Socket listening = listen_on(rank_ == 0 ? m.port : 0, &port);
    Hello me;
    me.rank = rank_;
    me.size = m.size;
    me.pid = ::getpid();
    me.port = port;
    ::gethostname(me.host, sizeof me.host - 1);
    if (rank_ == 0) gather(m, me, listening, end);
    else join(m, me, listening, end);
    reader_ = std::thread([this] { read(); });
  }

  ~TcpTransport() override {
    if (!stopped())
      for (Peer& p : peers_)
        if (p.socket.fd() >= 0) send(p, kGoodbye, {});
    const std::uint64_t one = 1;
    [[maybe_unused]] const ssize_t told = ::write(wake_.fd(), &one, sizeof one);
    reader_.join();
  }

  int rank() const override { return rank_; }
  std::string name() const override { return "tcp"; }
  int size() const override { return static_cast<int>(peers_.size()); }

  void exchange(Channel channel, std::span<const Outgoing> out, std::span<const Incoming> in) override {
    // The other side's reading thread always takes what comes, so sending first cannot block for ever.
    for (const Outgoing& m : out)
      if (!m.bytes.empty()) send(peer(m.peer), static_cast<std::uint8_t>(channel), m.bytes);
    for (const Incoming& m : in) {
      if (m.bytes.empty()) continue;
      std::unique_lock lock(mutex_);
      auto& inbox = peer(m.peer).inbox[static_cast<std::size_t>(channel)];
      arrived_.wait(lock, [&] { return !inbox.empty() || stopped_; });
      if (inbox.empty()) throw RunStopped(reason_);
      const Bytes8 message = std::move(inbox.front());
      inbox.pop_front();
      lock.unlock();
      if (message.size() != m.bytes.size())
        throw Error("E0320", Exit::bug, fmt::format("rank {} expects {} bytes from rank {} and is sent {}", rank_, m.bytes.size(), m.peer, message.size()),
                    "the ranks' programs do not match; please report this plan");
      std::copy(message.begin(), message.end(), m.bytes.begin());
    }
    std::lock_guard lock(mutex_);
    if (stopped_) throw RunStopped(reason_);
  }

  void stop(const std::string& reason) noexcept override {
    {
      std::lock_guard lock(mutex_);
      if (stopped_) return;  // the first reason stands
      reason_ = reason;
      stopped_ = true;
      arrived_.notify_all();
    }
    // All must hear it from this process before they hear that it is gone.
    for (Peer& p : peers_)
      if (p.socket.fd() >= 0) send(p, kStop, std::as_bytes(std::span(reason)));
  }

 private:
  Peer& peer(int rank) { return peers_[static_cast<std::size_t>(rank)]; }
  bool stopped() {
    std::lock_guard lock(mutex_);
    return stopped_;
  }

  void send(Peer& p, std::uint8_t kind, std::span<const std::byte> bytes) noexcept {
    const Frame frame{bytes.size(), kind};
    std::lock_guard lock(p.sending);
    // Failing means that the other is gone, which the reading thread finds and tells.
    if (send_all(p.socket.fd(), &frame, sizeof frame)) send_all(p.socket.fd(), bytes.data(), bytes.size());
  }

  // Rank 0: everyone comes, and gets the list of all.
  void gather(const Meeting& m, const Hello& me, const Socket& listening, Clock::time_point end) {
    std::random_device random;
    run_ = (std::uint64_t{random()} << 32 | random()) | 1;
    peers_[0].who = me;
    for (int missing = m.size - 1; missing > 0;) {
      sockaddr_in from{};
      Socket s = accept_before(listening, end, &from);
      if (s.fd() < 0) {
        std::string absent;
        for (int r = 1; r < m.size; ++r)
          if (peer(r).socket.fd() < 0) absent += fmt::format("{}{}", absent.empty() ? "" : ", ", r);
        refuse_meeting(fmt::format("of {} ranks, {} did not come to {}:{} within {:.0f} s: {}", m.size, missing, m.master, m.port, m.patience, absent));
      }
      Hello who;
      if (!receive_all(s.fd(), &who, sizeof who) || who.magic != Hello{}.magic) continue;  // a stranger
      if (who.size != m.size || who.rank < 1 || who.rank >= m.size || peer(who.rank).socket.fd() >= 0)
        refuse_meeting(fmt::format("a process on {} says that it is rank {} of {}, and this is rank 0 of {}{}", who.host, who.rank, who.size, m.size,
                           who.rank > 0 && who.rank < m.size && who.size == m.size ? "; there is one already" : ""));
      who.address = from.sin_addr.s_addr;
      peer(who.rank).who = who;
      peer(who.rank).socket = std::move(s);
      --missing;
    }
    std::vector<Hello> all;
    for (Peer& p : peers_) {
      p.who.run = run_;
      all.push_back(p.who);
    }
    for (int r = 1; r < m.size; ++r) send_all(peer(r).socket.fd(), all.data(), all.size() * sizeof(Hello));
  }

  // The others: to rank 0, then to all lower ranks; the higher ones come.
  void join(const Meeting& m, Hello me, const Socket& listening, Clock::time_point end) {
    Peer& zero = peer(0);
    zero.socket = connect_before(resolve(m.master, m.port), end);
    std::vector<Hello> all(peers_.size());
    if (zero.socket.fd() < 0) refuse_meeting(fmt::format("rank {} does not reach rank 0 at {}:{} within {:.0f} s", rank_, m.master, m.port, m.patience));
    if (!send_all(zero.socket.fd(), &me, sizeof me) || !receive_all(zero.socket.fd(), all.data(), all.size() * sizeof(Hello)))
      refuse_meeting(fmt::format("rank 0 at {}:{} hung up on rank {}", m.master, m.port, rank_));
    for (std::size_t r = 0; r < all.size(); ++r) peers_[r].who = all[r];
    me.run = run_ = all[0].run;
    for (int r = 1; r < rank_; ++r) {
      sockaddr_in to{};
      to.sin_family = AF_INET;
      to.sin_addr.s_addr = peer(r).who.address;
      to.sin_port = htons(static_cast<std::uint16_t>(peer(r).who.port));
      peer(r).socket = connect_before(to, end);
      if (peer(r).socket.fd() < 0 || !send_all(peer(r).socket.fd(), &me, sizeof me))
        refuse_meeting(fmt::format("rank {} does not reach rank {} on {}", rank_, r, peer(r).who.host));
    }
    for (int missing = m.size - 1 - rank_; missing > 0;) {
      sockaddr_in from{};
      Socket s = accept_before(listening, end, &from);
      if (s.fd() < 0) refuse_meeting(fmt::format("rank {} waits for {} ranks above it in vain", rank_, missing));
      Hello who;
      if (!receive_all(s.fd(), &who, sizeof who) || who.run != run_ || who.rank <= rank_ || who.rank >= m.size) continue;
      peer(who.rank).socket = std::move(s);
      --missing;
    }
  }

  void read() {
    for (Peer& p : peers_) {
      timeval none{};
      if (p.socket.fd() >= 0) ::setsockopt(p.socket.fd(), SOL_SOCKET, SO_RCVTIMEO, &none, sizeof none);
    }
    std::vector<pollfd> polled;
    for (;;) {
      polled.assign(1, {wake_.fd(), POLLIN, 0});
      for (Peer& p : peers_) polled.push_back({p.left ? -1 : p.socket.fd(), POLLIN, 0});  // −1 is passed over
      if (::poll(polled.data(), polled.size(), -1) < 0) continue;
      if (polled[0].revents) return;
      for (std::size_t r = 0; r < peers_.size(); ++r)
        if (polled[r + 1].revents && !take(peers_[r])) {
          const Hello& who = peers_[r].who;
          peers_[r].left = true;
          stop(fmt::format("rank {} (pid {} on {}) vanished", r, who.pid, who.host));
        }
    }
  }

  // Reads what has come from a peer, without blocking. False when the peer is gone without a goodbye.
  bool take(Peer& p) {
    for (;;) {
      const bool in_header = p.got < sizeof p.frame;
      char* at = in_header ? reinterpret_cast<char*>(&p.frame) + p.got : reinterpret_cast<char*>(p.body.data()) + (p.got - sizeof p.frame);
      const std::size_t want = in_header ? sizeof p.frame - p.got : sizeof p.frame + p.body.size() - p.got;
      if (want > 0) {
        const ssize_t n = ::recv(p.socket.fd(), at, want, MSG_DONTWAIT);
        if (n < 0 && (errno == EAGAIN || errno == EINTR)) return true;
        if (n <= 0) return false;
        p.got += static_cast<std::size_t>(n);
      }
      if (p.got < sizeof p.frame) continue;
      if (in_header) p.body.resize(p.frame.size);
      if (p.got < sizeof p.frame + p.body.size()) continue;
      p.got = 0;
      if (p.frame.kind == kGoodbye) {
        p.left = true;
        return true;
      }
      if (p.frame.kind == kStop) {
        stop(std::string(reinterpret_cast<const char*>(p.body.data()), p.body.size()));
        p.left = true;  // it will go without another word
        return true;
      }
      if (p.frame.kind >= kChannels) return false;
      std::lock_guard lock(mutex_);
      p.inbox[p.frame.kind].push_back(std::move(p.body));
      p.body = {};
      arrived_.notify_all();
    }
  }

  int rank_;
  std::uint64_t run_ = 0;
  std::vector<Peer> peers_;  // by rank; the own one has no socket
  Socket wake_;
  std::mutex mutex_;
  std::condition_variable arrived_;
  bool stopped_ = false;
  std::string reason_;
  std::thread reader_;
};

}  // namespace

std::unique_ptr<Transport> meet_over_tcp(const Meeting& m) { return std::make_unique<TcpTransport>(m); }

}  // namespace llmplan
