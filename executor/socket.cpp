#include "executor/socket.h"

#include <fmt/format.h>
#include <netdb.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>

#include <cerrno>
#include <cstring>
#include <thread>

#include "costmodel/error.h"

namespace llmplan {

using Clock = std::chrono::steady_clock;

void refuse_meeting(const std::string& what) {
  throw Error("E0516", Exit::environment, what,
              "rank 0 listens on MASTER_PORT of MASTER_ADDR, which all ranks must name alike and reach; is the port free and open?");
}

bool send_all(int fd, const void* data, std::size_t size) {
  for (auto* at = static_cast<const char*>(data); size > 0;) {
    const ssize_t n = ::send(fd, at, size, MSG_NOSIGNAL);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return false;
    at += n;
    size -= static_cast<std::size_t>(n);
  }
  return true;
}
bool receive_all(int fd, void* data, std::size_t size) {
  for (auto* at = static_cast<char*>(data); size > 0;) {
    const ssize_t n = ::recv(fd, at, size, 0);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return false;
    at += n;
    size -= static_cast<std::size_t>(n);
  }
  return true;
}

namespace {

void tune(int fd) {
  const int on = 1, idle = 5, probes = 3;
  ::setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  // A machine that loses its power says no goodbye: ask after 5 s of silence, three times.
  ::setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof on);
  ::setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle, sizeof idle);
  ::setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &idle, sizeof idle);
  ::setsockopt(fd, IPPROTO_TCP, TCP_KEEPCNT, &probes, sizeof probes);
}

}  // namespace

Socket listen_on(int port, int* chosen) {
  Socket s(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  const int on = 1;
  ::setsockopt(s.fd(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  sockaddr_in at{};
  at.sin_family = AF_INET;
  at.sin_addr.s_addr = htonl(INADDR_ANY);
  at.sin_port = htons(static_cast<std::uint16_t>(port));
  if (::bind(s.fd(), reinterpret_cast<sockaddr*>(&at), sizeof at) != 0 || ::listen(s.fd(), 1024) != 0)
    refuse_meeting(fmt::format("rank 0 cannot listen on port {}: {}", port, std::strerror(errno)));
  socklen_t size = sizeof at;
  ::getsockname(s.fd(), reinterpret_cast<sockaddr*>(&at), &size);
  if (chosen) *chosen = ntohs(at.sin_port);
  return s;
}

Socket accept_before(const Socket& listening, Clock::time_point end, sockaddr_in* from) {
  for (;;) {
    const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(end - Clock::now()).count();
    pollfd p{listening.fd(), POLLIN, 0};
    if (left <= 0 || ::poll(&p, 1, static_cast<int>(left)) == 0) return Socket();
    socklen_t size = sizeof *from;
    Socket s(::accept4(listening.fd(), reinterpret_cast<sockaddr*>(from), &size, SOCK_CLOEXEC));
    if (s.fd() < 0) continue;
    timeval limit{5, 0};  // a stranger who connects and says nothing holds nobody up for long
    ::setsockopt(s.fd(), SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    tune(s.fd());
    return s;
  }
}

Socket connect_before(const sockaddr_in& to, Clock::time_point end) {
  for (;;) {
    Socket s(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    if (::connect(s.fd(), reinterpret_cast<const sockaddr*>(&to), sizeof to) == 0) {
      tune(s.fd());
      return s;
    }
    if (Clock::now() > end) return Socket();
    std::this_thread::sleep_for(std::chrono::milliseconds(20));  // the other may not be there yet
  }
}

sockaddr_in resolve(const std::string& name, int port) {
  addrinfo want{}, *found = nullptr;
  want.ai_family = AF_INET;
  want.ai_socktype = SOCK_STREAM;
  if (const int error = ::getaddrinfo(name.c_str(), nullptr, &want, &found); error != 0)
    refuse_meeting(fmt::format("'{}' is not a known machine: {}", name, ::gai_strerror(error)));
  sockaddr_in at = *reinterpret_cast<sockaddr_in*>(found->ai_addr);
  ::freeaddrinfo(found);
  at.sin_port = htons(static_cast<std::uint16_t>(port));
  return at;
}

}  // namespace llmplan
