#include "executor/tokens.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <vector>

#include "costmodel/error.h"

namespace llmplan {
namespace fs = std::filesystem;

std::unique_ptr<Tokens> open_tokens(const std::string& path, std::int64_t vocabulary, bool documents) {
  std::error_code ignored;
  std::string prefix = path;
  for (const char* suffix : {".bin", ".idx"})
    if (path.ends_with(suffix)) prefix = path.substr(0, path.size() - 4);
  bool bin = fs::exists(prefix + ".bin", ignored), idx = fs::exists(prefix + ".idx", ignored);
  if (prefix == path && fs::exists(path, ignored) && !fs::is_directory(path, ignored))
    return open_text(path, vocabulary);
  if (bin && idx) return open_indexed(prefix, vocabulary, documents);
  if (bin || idx)
    throw Error("E0404", Exit::data,
                fmt::format("{0}.{1} has no {0}.{2} beside it", prefix, bin ? "bin" : "idx", bin ? "idx" : "bin"),
                "a Megatron data set is a pair: copy the other file too, or prepare the data again");
  if (prefix != path && fs::exists(path, ignored) && !fs::is_directory(path, ignored))
    return open_text(path, vocabulary);
  if (fs::is_directory(path, ignored))
    throw Error("E0404", Exit::data, fmt::format("{} is a directory, not data", path),
                "give a text file, or the prefix of a Megatron pair inside it (DIR/NAME for NAME.bin and NAME.idx)");
  throw Error("E0404", Exit::data,
              fmt::format("no data: there is neither a file {0} nor a pair {0}.bin, {0}.idx", path),
              "give a text file (read as bytes), or the prefix of a Megatron .bin/.idx pair");
}

void check_ids(const Tokens& tokens, std::int64_t at_most) {
  std::vector<std::int32_t> block;
  auto check = [&](std::int64_t first, std::int64_t last) {
    for (std::int64_t at = first; at < last; at += 1 << 20) {
      block.resize(static_cast<std::size_t>(std::min<std::int64_t>(1 << 20, last - at)));
      tokens.read(at, block);
    }
  };
  std::int64_t n = tokens.size();
  if (n <= at_most) return check(0, n);
  check(0, at_most / 2);
  check(n - at_most / 2, n);
}

}  // namespace llmplan
