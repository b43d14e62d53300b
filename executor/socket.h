// TCP sockets, as far as ranks that meet and talk need them. What fails while they meet is Error E0516.
#pragma once

#include <netinet/in.h>
#include <unistd.h>

#include <chrono>
#include <cstddef>
#include <string>
#include <utility>

namespace llmplan {

class Socket {
 public:
  explicit Socket(int fd = -1) : fd_(fd) {}
  ~Socket() { close(); }
  Socket(Socket&& o) noexcept : fd_(std::exchange(o.fd_, -1)) {}
  Socket& operator=(Socket&& o) noexcept {
    std::swap(fd_, o.fd_);
    return *this;
  }
  int fd() const { return fd_; }
  void close() {
    if (fd_ >= 0) ::close(std::exchange(fd_, -1));
  }

 private:
  int fd_;
};

[[noreturn]] void refuse_meeting(const std::string& what);  // Error E0516

// False: the other side is gone.
bool send_all(int fd, const void* data, std::size_t size);
bool receive_all(int fd, void* data, std::size_t size);

Socket listen_on(int port, int* chosen = nullptr);  // port 0: any, told in `chosen`
// An empty socket: nobody came, or was reached, in time.
Socket accept_before(const Socket& listening, std::chrono::steady_clock::time_point end, sockaddr_in* from);
Socket connect_before(const sockaddr_in& to, std::chrono::steady_clock::time_point end);
sockaddr_in resolve(const std::string& name, int port);

}  // namespace llmplan
