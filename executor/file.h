// Files whose failures are told in plain words, and writes that leave either the old content or the new.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

namespace llmplan {

// An open file that is read by position. `pread` rather than a mapping: a file that shrinks while it is
// read then gives an Error instead of SIGBUS.
class InputFile {
 public:
  explicit InputFile(std::string path);  // Error E0401 when it is missing or cannot be opened
  ~InputFile();
  InputFile(InputFile&& other) noexcept;
  InputFile& operator=(InputFile&&) = delete;

  const std::string& path() const { return path_; }
  std::int64_t size() const;  // now
  // Fills `out` from byte `offset`. Error E0402 when the file ends before.
  void read(std::int64_t offset, std::span<std::byte> out) const;

 private:
  std::string path_;
  int fd_ = -1;
};

// A file that appears under its name only when it is complete and on disk: written beside it, synced,
// renamed, and the directory synced. Destroyed without commit() it leaves nothing behind.
class AtomicFile {
 public:
  explicit AtomicFile(std::string path);
  ~AtomicFile();
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;

  void write(std::span<const std::byte> bytes);                        // at the end
  void write(std::string_view text);
  void write_at(std::int64_t offset, std::span<const std::byte> bytes);
  void commit();

 private:
  std::string path_, temporary_;
  int fd_ = -1;
  std::int64_t end_ = 0;
};

void write_file(const std::string& path, std::string_view text);  // atomically
std::string read_file(const std::string& path);                   // whole; Error E0401
void make_directory(const std::string& path);                     // with parents; Error E0501 E0502

// Appends lines to a file, each handed to the kernel at once.
class LineWriter {
 public:
  LineWriter() = default;
  ~LineWriter();
  LineWriter(const LineWriter&) = delete;
  LineWriter& operator=(const LineWriter&) = delete;
  void open(const std::string& path);
  void line(std::string_view text);

 private:
  std::string path_;
  int fd_ = -1;
};

// One run per directory: holds DIR/lock until destroyed. Error E0505 when another process has it.
class DirectoryLock {
 public:
  explicit DirectoryLock(const std::string& directory);
  ~DirectoryLock();
  DirectoryLock(const DirectoryLock&) = delete;
  DirectoryLock& operator=(const DirectoryLock&) = delete;

 private:
  int fd_ = -1;
};

// 64 bits over bytes in order: h ← mix(h, word). Finds damage, not attackers.
class Checksum {
 public:
  void add(std::span<const std::byte> bytes);  // any piece but the last: a multiple of 8 bytes
  std::uint64_t value() const { return h_; }

 private:
  std::uint64_t h_ = 0x9e3779b97f4a7c15u;
};
std::string hex(std::uint64_t value);  // 16 digits

}  // namespace llmplan
