#include "executor/file.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <fmt/format.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <utility>

#include "costmodel/error.h"

namespace llmplan {
namespace {

[[noreturn]] void fail_to_write(const std::string& path, const char* what, int error) {
  std::string why = std::strerror(error);
  switch (error) {
    case ENOSPC: case EDQUOT: case EFBIG:
      throw Error("E0502", Exit::environment,
                  fmt::format("cannot {} {}: the disk is full ({})", what, path, why),
                  "free some space, or choose a directory on another disk with --out; checkpoints that were "
                  "complete stay valid: --resume continues from the last");
    case EROFS: case EACCES: case EPERM:
      throw Error("E0501", Exit::environment,
                  fmt::format("cannot {} {}: not permitted ({})", what, path, why),
                  "choose a directory that you may write to with --out");
    default:
      throw Error("E0503", Exit::environment, fmt::format("cannot {} {}: {}", what, path, why),
                  "check the path and the disk; checkpoints that were complete stay valid");
  }
}

std::string parent(const std::string& path) {
  std::string p = std::filesystem::path(path).parent_path().string();
  return p.empty() ? "." : p;
}

void write_all(int fd, std::int64_t offset, std::span<const std::byte> bytes, const std::string& path) {
  while (!bytes.empty()) {
    ssize_t n = ::pwrite(fd, bytes.data(), bytes.size(), offset);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) fail_to_write(path, "write", errno);
    offset += n;
    bytes = bytes.subspan(static_cast<std::size_t>(n));
  }
}

}  // namespace

InputFile::InputFile(std::string path) : path_(std::move(path)) {
  fd_ = ::open(path_.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd_ < 0)
    throw Error("E0401", Exit::data, fmt::format("cannot open {}: {}", path_, std::strerror(errno)),
                "check the path and that you may read the file");
  struct stat s {};
  if (::fstat(fd_, &s) != 0 || !S_ISREG(s.st_mode)) {
    ::close(std::exchange(fd_, -1));
    throw Error("E0401", Exit::data, fmt::format("{} is not a regular file", path_),
                "give the path of a file; a pipe or a directory cannot be read at random positions");
  }
}
InputFile::~InputFile() {
  if (fd_ >= 0) ::close(fd_);
}
InputFile::InputFile(InputFile&& other) noexcept
    : path_(std::move(other.path_)), fd_(std::exchange(other.fd_, -1)) {}

std::int64_t InputFile::size() const {
  struct stat s {};
  if (::fstat(fd_, &s) != 0)
    throw Error("E0402", Exit::data, fmt::format("cannot read {}: {}", path_, std::strerror(errno)),
                "check the disk that holds it");
  return s.st_size;
}

void InputFile::read(std::int64_t offset, std::span<std::byte> out) const {
  std::int64_t at = offset;
  while (!out.empty()) {
    ssize_t n = ::pread(fd_, out.data(), out.size(), at);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0)
      throw Error("E0402", Exit::data,
                  fmt::format("cannot read {} at byte {}: {}", path_, at, std::strerror(errno)),
                  "check the disk that holds it");
    if (n == 0)
      throw Error("E0402", Exit::data,
                  fmt::format("{} is truncated: {} bytes at byte {} were expected, the file has {}", path_,
                              static_cast<std::int64_t>(out.size()) + (at - offset), offset, size()),
                  "restore the file; if another program is writing it, wait until that has ended");
    at += n;
    out = out.subspan(static_cast<std::size_t>(n));
  }
}

AtomicFile::AtomicFile(std::string path)
    : path_(std::move(path)), temporary_(path_ + ".tmp") {
  fd_ = ::open(temporary_.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
  if (fd_ < 0) fail_to_write(path_, "write", errno);
}
AtomicFile::~AtomicFile() {
  if (fd_ < 0) return;
  ::close(fd_);
  ::unlink(temporary_.c_str());
}
void AtomicFile::write(std::span<const std::byte> bytes) {
  write_all(fd_, end_, bytes, path_);
  end_ += static_cast<std::int64_t>(bytes.size());
}
void AtomicFile::write(std::string_view text) { write(std::as_bytes(std::span(text))); }
void AtomicFile::write_at(std::int64_t offset, std::span<const std::byte> bytes) {
  write_all(fd_, offset, bytes, path_);
}
void AtomicFile::commit() {
  if (::fsync(fd_) != 0) fail_to_write(path_, "write", errno);
  if (::close(std::exchange(fd_, -1)) != 0) {
    int error = errno;
    ::unlink(temporary_.c_str());
    fail_to_write(path_, "write", error);
  }
  if (::rename(temporary_.c_str(), path_.c_str()) != 0) {
    int error = errno;
    ::unlink(temporary_.c_str());
    fail_to_write(path_, "rename a new file to", error);
  }
  // The rename itself is on disk only when the directory is.
  int dir = ::open(parent(path_).c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (dir >= 0) {
    ::fsync(dir);
    ::close(dir);
  }
}

void write_file(const std::string& path, std::string_view text) {
  AtomicFile file(path);
  file.write(text);
  file.commit();
}

std::string read_file(const std::string& path) {
  InputFile file(path);
  std::string text(static_cast<std::size_t>(file.size()), '\0');
  file.read(0, std::as_writable_bytes(std::span(text)));
  return text;
}

void make_directory(const std::string& path) {
  std::error_code error;
  std::filesystem::create_directories(path, error);
  if (error) fail_to_write(path, "create directory", error.value());
  if (!std::filesystem::is_directory(path, error)) fail_to_write(path, "create directory", ENOTDIR);
}

LineWriter::~LineWriter() {
  if (fd_ >= 0) ::close(fd_);
}
void LineWriter::open(const std::string& path) {
  path_ = path;
  fd_ = ::open(path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
  if (fd_ < 0) fail_to_write(path, "write", errno);
}
void LineWriter::line(std::string_view text) {
  std::string whole(text);  // one write(2), so that a reader never sees half a line
  whole += '\n';
  std::string_view rest = whole;
  while (!rest.empty()) {
    ssize_t n = ::write(fd_, rest.data(), rest.size());
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) fail_to_write(path_, "write", errno);
    rest.remove_prefix(static_cast<std::size_t>(n));
  }
}

DirectoryLock::DirectoryLock(const std::string& directory) {
  std::string path = directory + "/lock";
  fd_ = ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0666);
  if (fd_ < 0) fail_to_write(path, "write", errno);
  if (::flock(fd_, LOCK_EX | LOCK_NB) != 0) {
    int error = errno;
    char owner[32] = {};
    if (::pread(fd_, owner, sizeof owner - 1, 0) < 0) owner[0] = 0;
    ::close(std::exchange(fd_, -1));
    if (error == EWOULDBLOCK)
      throw Error("E0505", Exit::environment,
                  fmt::format("another run{} is using {}",
                              owner[0] ? fmt::format(" (process {})", owner) : "", directory),
                  "wait for it to end, or choose another directory with --out");
    fail_to_write(path, "lock", error);
  }
  std::string pid = std::to_string(::getpid());
  if (::ftruncate(fd_, 0) != 0) fail_to_write(path, "write", errno);
  write_all(fd_, 0, std::as_bytes(std::span(pid)), path);
}
DirectoryLock::~DirectoryLock() {
  if (fd_ >= 0) ::close(fd_);  // releases the lock; the file stays, as removing it would race
}

void Checksum::add(std::span<const std::byte> bytes) {
  auto mix = [this](std::uint64_t word) {
    h_ = (h_ ^ word) * 0xff51afd7ed558ccdu;
    h_ ^= h_ >> 32;
  };
  std::uint64_t word = 0;
  std::size_t at = 0;
  for (; at + 8 <= bytes.size(); at += 8) {
    std::memcpy(&word, bytes.data() + at, 8);
    mix(word);
  }
  if (at < bytes.size()) {
    word = bytes.size() - at;
    std::memcpy(reinterpret_cast<char*>(&word) + 1, bytes.data() + at, std::min<std::size_t>(7, bytes.size() - at));
    mix(word);
  }
}

std::string hex(std::uint64_t value) { return fmt::format("{:016x}", value); }

}  // namespace llmplan
