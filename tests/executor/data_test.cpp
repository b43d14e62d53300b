#include <doctest/doctest.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <random>
#include <set>
#include <vector>

#include "executor/loader.h"
#include "executor/random.h"
#include "executor/tokens.h"
#include "tests/executor/scratch.h"

namespace llmplan {
namespace {

template <class T>
void put(std::string& s, T value) {
  s.append(reinterpret_cast<const char*>(&value), sizeof value);
}

// An index as Megatron's _IndexWriter lays it out.
struct Index {
  std::string magic = std::string("MMIDIDX\0\0", 9);
  std::uint64_t version = 1;
  std::uint8_t code = 8;
  std::vector<std::int32_t> lengths = {3, 2};
  std::vector<std::int64_t> pointers = {0, 6}, documents = {0, 1, 2};
  std::uint64_t sequences = 2, document_count = 3;

  std::string bytes() const {
    std::string s = magic;
    put(s, version), put(s, code), put(s, sequences), put(s, document_count);
    for (auto v : lengths) put(s, v);
    for (auto v : pointers) put(s, v);
    for (auto v : documents) put(s, v);
    return s;
  }
};

template <class T>
std::string raw(std::initializer_list<T> values) {
  std::string s;
  for (T v : values) put(s, v);
  return s;
}

const std::string kBin = raw<std::uint16_t>({1, 2, 3, 4, 5});

std::vector<std::int32_t> all(const Tokens& t) {
  std::vector<std::int32_t> out(static_cast<std::size_t>(t.size()));
  t.read(0, out);
  return out;
}

std::string open_error(const Scratch& dir, const std::string& idx, const std::string& bin, std::string* message = nullptr) {
  dir.write("d.idx", idx);
  dir.write("d.bin", bin);
  return error_of([&] { check_ids(*open_tokens(dir / "d", 100)); }, message);
}

TEST_CASE("Megatron's documented example of two documents is read to the byte") {
  // The bytes of the format's own example: documents [1,2,3] and [4,5] as u16.
  const unsigned char idx[] = {0x4d, 0x4d, 0x49, 0x44, 0x49, 0x44, 0x58, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 8, 2, 0, 0,
                               0,    0,    0,    0,    0,    3,    0,    0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 2, 0, 0, 0,
                               0,    0,    0,    0,    0,    0,    0,    0, 6, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
                               0,    0,    0,    1,    0,    0,    0,    0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0};
  std::string bytes(reinterpret_cast<const char*>(idx), sizeof idx);
  REQUIRE(bytes.size() == 82);
  CHECK(Index{}.bytes() == bytes);
  Scratch dir;
  dir.write("d.idx", bytes);
  dir.write("d.bin", kBin);
  for (const char* name : {"d", "d.bin", "d.idx"}) {
    auto tokens = open_tokens(dir / name, 6);
    CHECK(all(*tokens) == std::vector<std::int32_t>{1, 2, 3, 4, 5});
  }
}

TEST_CASE("All token types are accepted, floating point is refused") {
  Scratch dir;
  auto read = [&](std::uint8_t code, const std::string& bin, std::int64_t width) {
    Index i;
    i.code = code;
    i.pointers = {0, 3 * width};
    dir.write("d.idx", i.bytes());
    dir.write("d.bin", bin);
    return all(*open_tokens(dir / "d", 100));
  };
  const std::vector<std::int32_t> expected = {1, 2, 3, 4, 99};
  CHECK(read(1, raw<std::uint8_t>({1, 2, 3, 4, 99}), 1) == expected);
  CHECK(read(2, raw<std::int8_t>({1, 2, 3, 4, 99}), 1) == expected);
  CHECK(read(3, raw<std::int16_t>({1, 2, 3, 4, 99}), 2) == expected);
  CHECK(read(4, raw<std::int32_t>({1, 2, 3, 4, 99}), 4) == expected);
  CHECK(read(5, raw<std::int64_t>({1, 2, 3, 4, 99}), 8) == expected);
  CHECK(read(8, raw<std::uint16_t>({1, 2, 3, 4, 99}), 2) == expected);
  CHECK(read(9, raw<std::uint32_t>({1, 2, 3, 4, 99}), 4) == expected);
  CHECK(read(10, raw<std::uint64_t>({1, 2, 3, 4, 99}), 8) == expected);
  for (std::uint8_t code : {0, 6, 7, 11, 255})
    CHECK(error_of([&] { read(code, raw<std::uint64_t>({1, 2, 3, 4, 5}), 8); }) == "E0402");
}

TEST_CASE("Sequences that do not follow each other in the .bin are read in the index's order") {
  Scratch dir;
  Index i;
  i.lengths = {2, 0, 3};
  i.pointers = {6, 10, 0};
  i.documents = {0, 1, 3};
  i.sequences = i.document_count = 3;
  dir.write("d.idx", i.bytes());
  dir.write("d.bin", kBin);
  auto tokens = open_tokens(dir / "d", 100);
  CHECK(all(*tokens) == std::vector<std::int32_t>{4, 5, 1, 2, 3});
  std::vector<std::int32_t> middle(3);
  tokens->read(1, middle);
  CHECK(middle == std::vector<std::int32_t>{5, 1, 2});
}

TEST_CASE("An index whose header or tables lie is refused") {
  Scratch dir;
  auto with = [&](auto change) {
    Index i;
    change(i);
    return open_error(dir, i.bytes(), kBin);
  };
  CHECK(with([](Index&) {}) == "none");
  CHECK(with([](Index& i) { i.magic[0] = 'X'; }) == "E0402");
  CHECK(with([](Index& i) { i.version = 2; }) == "E0402");
  CHECK(with([](Index& i) { i.sequences = 3; }) == "E0402");
  CHECK(with([](Index& i) { i.sequences = 1; }) == "E0402");
  CHECK(with([](Index& i) { i.sequences = ~0ull; }) == "E0402");
  CHECK(with([](Index& i) { i.sequences = 1ull << 62; }) == "E0402");
  CHECK(with([](Index& i) { i.document_count = ~0ull; }) == "E0402");
  CHECK(with([](Index& i) { i.document_count = 2; }) == "E0402");
  CHECK(with([](Index& i) { i.lengths[0] = -3; }) == "E0402");
  CHECK(with([](Index& i) { i.lengths[1] = 3; }) == "E0402");
  CHECK(with([](Index& i) { i.lengths[0] = 2; }) == "E0402");
  CHECK(with([](Index& i) { i.pointers[1] = 8; }) == "E0402");
  CHECK(with([](Index& i) { i.pointers[1] = -2; }) == "E0402");
  CHECK(with([](Index& i) { i.pointers[1] = INT64_MAX; }) == "E0402");
  CHECK(with([](Index& i) { i.documents = {0, 2, 1}; }) == "E0402");
  CHECK(with([](Index& i) { i.documents = {1, 1, 2}; }) == "E0402");
  CHECK(with([](Index& i) { i.documents = {0, 1, 1}; }) == "E0402");
  CHECK(with([](Index& i) { i.code = 4; }) == "E0402");  // 4 bytes per token claimed, 2 there
  CHECK(with([](Index& i) { i.code = 1; }) == "E0402");
  CHECK(with([](Index& i) { i.documents.push_back(7); }) == "E0402");  // bytes that nothing describes
}

TEST_CASE("A pair that is cut anywhere is refused") {
  Scratch dir;
  const std::string idx = Index{}.bytes();
  for (std::size_t n = 0; n < idx.size(); ++n) {
    std::string code = open_error(dir, idx.substr(0, n), kBin);
    CHECK_MESSAGE((code == "E0402" || (n == 0 && code == "E0403")), "index of ", n, " bytes: ", code);
  }
  for (std::size_t n = 0; n < kBin.size(); ++n) CHECK(open_error(dir, idx, kBin.substr(0, n)) == "E0402");
  CHECK(open_error(dir, idx, kBin + "x") == "E0402");
}

TEST_CASE("Random damage to an index never crashes and never yields an id outside the vocabulary") {
  Scratch dir;
  std::mt19937 random(7);
  int read = 0;
  for (int round = 0; round < 200; ++round) {
    std::string idx = Index{}.bytes();
    for (int k = 0; k < 1 + round % 3; ++k) idx[random() % idx.size()] = static_cast<char>(random());
    dir.write("d.idx", idx);
    dir.write("d.bin", kBin);
    std::string code = error_of([&] {
      for (std::int32_t id : all(*open_tokens(dir / "d", 100))) {
        CHECK(id >= 0);
        CHECK(id < 100);
      }
      ++read;
    });
    CHECK((code == "none" || code.starts_with("E04")));
  }
  CHECK(read < 200);
}

TEST_CASE("An id outside the model's vocabulary is named with its position") {
  Scratch dir;
  std::string message;
  CHECK(open_error(dir, Index{}.bytes(), raw<std::uint16_t>({1, 2, 3, 100, 5}), &message) == "E0405");
  CHECK(message.find("token 3 is 100") != message.npos);
  Index i;
  i.code = 3;
  dir.write("d.idx", i.bytes());
  dir.write("d.bin", raw<std::int16_t>({1, -2, 3, 4, 5}));
  CHECK(error_of([&] { check_ids(*open_tokens(dir / "d", 100)); }, &message) == "E0405");
  CHECK(message.find("token 1 is -2") != message.npos);
  i.code = 10;
  i.pointers = {0, 24};
  dir.write("d.idx", i.bytes());
  dir.write("d.bin", raw<std::uint64_t>({1, 2, 3, 4, (1ull << 32) + 5}));  // must not wrap to 5
  CHECK(error_of([&] { check_ids(*open_tokens(dir / "d", 100)); }) == "E0405");
}

TEST_CASE("A file that shrinks while it is in use gives an error, not a crash") {
  Scratch dir;
  dir.write("d.idx", Index{}.bytes());
  dir.write("d.bin", kBin);
  auto pair = open_tokens(dir / "d", 100);
  auto text = open_tokens(dir.write("t.txt", std::string(5000, 'a')), 300);
  std::filesystem::resize_file(dir / "d.bin", 4);
  std::filesystem::resize_file(dir / "t.txt", 4100);
  CHECK(error_of([&] { all(*pair); }) == "E0402");
  CHECK(error_of([&] { all(*text); }) == "E0402");
}

TEST_CASE("Missing, empty and half-present data have their own messages") {
  Scratch dir;
  auto open = [&](const std::string& name, std::int64_t vocabulary = 300) {
    return error_of([&] { open_tokens(dir / name, vocabulary); });
  };
  CHECK(open("nothing") == "E0404");
  CHECK(open(".") == "E0404");
  dir.write("empty.txt", "");
  CHECK(open("empty.txt") == "E0403");
  dir.write("half.bin", kBin);
  CHECK(open("half") == "E0404");
  CHECK(open("half.bin") == "E0404");
  dir.write("text", "hello");
  CHECK(open("text") == "none");
  CHECK(open("text", 256) == "E0405");
  CHECK(open("text", 257) == "none");
}

TEST_CASE("Every byte value of a text file is its own id") {
  Scratch dir;
  std::string bytes;
  for (int i = 0; i < 256; ++i) bytes += static_cast<char>(i);
  auto ids = all(*open_tokens(dir.write("t", bytes), 257));
  for (int i = 0; i < 256; ++i) CHECK(ids[static_cast<std::size_t>(i)] == i);
}

TEST_CASE("permute visits every number below n exactly once, for any n and key") {
  for (std::int64_t n : {1, 2, 3, 7, 64, 65, 1000, 4097})
    for (std::uint64_t key : {0ull, 1ull, 0xdeadbeefull}) {
      std::set<std::int64_t> seen;
      for (std::int64_t i = 0; i < n; ++i) seen.insert(permute(i, n, key));
      CHECK(static_cast<std::int64_t>(seen.size()) == n);
      CHECK(*seen.begin() == 0);
      CHECK(*seen.rbegin() == n - 1);
    }
  int moved = 0;  // and it does shuffle
  for (std::int64_t i = 0; i < 1000; ++i) moved += permute(i, 1000, 5) != i;
  CHECK(moved > 950);
}

// Tokens 0, 1, 2, …: an id is its own position.
struct Counting : Tokens {
  std::int64_t n;
  explicit Counting(std::int64_t count) : n(count) {}
  std::int64_t size() const override { return n; }
  void read(std::int64_t first, std::span<std::int32_t> out) const override {
    REQUIRE(first >= 0);
    REQUIRE(first + static_cast<std::int64_t>(out.size()) <= n);
    for (auto& id : out) id = static_cast<std::int32_t>(first++);
  }
  std::string description() const override { return "counting"; }
};

TEST_CASE("Training samples are whole windows with their next tokens, each once per epoch, none from the held-out part") {
  const std::int64_t seq = 16;
  Counting tokens(1000);
  Loader loader(tokens, seq, 0.1, 42);
  std::vector<std::int32_t> ids(seq), targets(seq);
  std::set<std::int32_t> shifts;
  for (std::int64_t epoch = 0; epoch < 5; ++epoch) {
    std::set<std::int32_t> starts;
    for (std::int64_t i = 0; i < loader.samples_per_epoch(); ++i) {
      loader.train(epoch * loader.samples_per_epoch() + i, ids, targets);
      for (std::size_t k = 0; k < ids.size(); ++k) {
        CHECK(ids[k] == ids[0] + static_cast<std::int32_t>(k));
        CHECK(targets[k] == ids[k] + 1);
      }
      CHECK(targets.back() < 900);
      starts.insert(ids[0]);
    }
    CHECK(static_cast<std::int64_t>(starts.size()) == loader.samples_per_epoch());
    CHECK(*starts.rbegin() - *starts.begin() == (loader.samples_per_epoch() - 1) * seq);  // no overlap
    shifts.insert(*starts.begin());
  }
  CHECK(shifts.size() > 1);  // epochs cut the text at different places
  CHECK(loader.samples_per_epoch() * seq >= 900 - 2 * seq);
}

TEST_CASE("Samples depend on the seed and the position only") {
  Counting tokens(5000);
  Loader a(tokens, 8, 0.1, 1), b(tokens, 8, 0.1, 1), other(tokens, 8, 0.1, 2);
  std::vector<std::int32_t> x(8), y(8), z(8), t(8);
  int same = 0;
  for (std::int64_t n : {7, 3, 900, 3}) {
    a.train(n, x, t);
    b.train(n, y, t);
    other.train(n, z, t);
    CHECK(x == y);
    same += x == z;
  }
  CHECK(same < 2);
}

TEST_CASE("Held-out samples come from the end, do not repeat, and mask what is not there") {
  Counting tokens(1000);
  Loader loader(tokens, 16, 0.1, 1);
  std::vector<std::int32_t> ids(16), targets(16);
  std::set<std::int32_t> starts;
  int counted = 0;
  for (std::int64_t k = 0; k < 10; ++k) {  // six whole windows fit
    loader.held_out(k, 10, ids, targets);
    if (targets[0] < 0) {
      CHECK(std::count(targets.begin(), targets.end(), -1) == 16);
      continue;
    }
    CHECK(ids[0] >= 900);
    CHECK(targets[15] == ids[0] + 16);
    CHECK(starts.insert(ids[0]).second);
    ++counted;
  }
  CHECK(counted == 6);
}

TEST_CASE("A held-out part shorter than a sequence is still used, to its end") {
  Counting tokens(400);
  Loader loader(tokens, 64, 0.1, 1);  // 40 held out
  REQUIRE(loader.has_held_out());
  std::vector<std::int32_t> ids(64), targets(64);
  loader.held_out(0, 1, ids, targets);
  CHECK(ids[0] == 360);
  CHECK(targets[38] == 399);
  CHECK(targets[39] == -1);
  CHECK(std::count(targets.begin(), targets.end(), -1) == 64 - 39);
}

TEST_CASE("Data too short for one sequence is refused with the length that would do") {
  Counting tokens(100);
  CHECK(error_of([&] { Loader(tokens, 100, 0, 1); }) == "E0403");
  CHECK(error_of([&] { Loader(tokens, 99, 0, 1); }) == "none");
  CHECK(error_of([&] { Loader(tokens, 95, 0.1, 1); }) == "E0403");
  Loader one(tokens, 99, 0, 1);
  CHECK(one.samples_per_epoch() == 1);
  CHECK_FALSE(one.has_held_out());
}

}  // namespace
}  // namespace llmplan
