#include <doctest/doctest.h>

#include <cmath>
#include <cstring>
#include <random>

#include "costmodel/profiles/profiles.h"
#include "executor/checkpoint.h"
#include "executor/file.h"
#include "executor/init.h"
#include "executor/safetensors.h"
#include "executor/shard.h"
#include "tests/executor/scratch.h"
#include "tests/executor/tiny_plan.h"

namespace llmplan {
namespace {

std::string header_and_data(const std::string& json, std::size_t data_bytes) {
  std::uint64_t n = json.size();
  std::string s(reinterpret_cast<const char*>(&n), 8);
  return s + json + std::string(data_bytes, '\0');
}

std::string open_code(const Scratch& dir, const std::string& content) {
  std::string path = dir.write("x.safetensors", content);
  return error_of([&] { SafeTensors file(path); });
}

const std::string kTwo = R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"b":{"dtype":"BF16","shape":[1,2],"data_offsets":[8,12]}})";

TEST_CASE("A safetensors file that breaks any rule of the format is refused") {
  Scratch dir;
  CHECK(open_code(dir, header_and_data(kTwo, 12)) == "none");
  CHECK(open_code(dir, header_and_data(kTwo + "   ", 12)) == "none");  // padding with spaces
  CHECK(open_code(dir, header_and_data("{}", 0)) == "none");
  CHECK(open_code(dir, header_and_data(R"({"s":{"dtype":"F32","shape":[],"data_offsets":[0,4]}})", 4)) == "none");
  CHECK(open_code(dir, header_and_data(R"({"s":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}})", 0)) == "none");
  auto bad = [&](const std::string& json, std::size_t bytes) { return open_code(dir, header_and_data(json, bytes)); };
  CHECK(bad(kTwo, 11) == "E0406");
  CHECK(bad(kTwo, 13) == "E0406");
  CHECK(bad(R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[4,12]}})", 12) == "E0406");   // a hole
  CHECK(bad(R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"b":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}})", 8) == "E0406");
  CHECK(bad(R"({"a":{"dtype":"F32","shape":[3],"data_offsets":[0,8]}})", 8) == "E0406");
  CHECK(bad(R"({"a":{"dtype":"F32","shape":[-2],"data_offsets":[0,8]}})", 8) == "E0406");
  CHECK(bad(R"({"a":{"dtype":"F32","shape":[4611686018427387904,4],"data_offsets":[0,0]}})", 0) == "E0406");
  CHECK(bad(R"({"a":{"dtype":"F33","shape":[2],"data_offsets":[0,8]}})", 8) == "E0406");
  CHECK(bad(R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[8,0]}})", 8) == "E0406");
  CHECK(bad(R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0]}})", 8) == "E0406");
  CHECK(bad(R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}})", 4) == "E0406");
  CHECK(bad(R"({"a":7})", 0) == "E0406");
  CHECK(bad(R"({"__metadata__":{"n":7}})", 0) == "E0406");
  CHECK(bad(R"([1])", 0) == "E0406");
  CHECK(bad(R"({"a":)", 0) == "E0406");
  CHECK(open_code(dir, "") == "E0406");
  CHECK(open_code(dir, "1234567") == "E0406");
  CHECK(open_code(dir, std::string(8, '\xff') + "{}") == "E0406");
  CHECK(error_of([&] { SafeTensors file(dir / "nothing"); }) == "E0401");
}

TEST_CASE("Random damage to a safetensors header gives an error or a readable file, never a crash") {
  Scratch dir;
  std::mt19937 random(3);
  const std::string good = header_and_data(kTwo, 12);
  for (int round = 0; round < 200; ++round) {
    std::string bytes = good;
    bytes[random() % bytes.size()] = static_cast<char>(random());
    std::string path = dir.write("x.safetensors", bytes);
    std::string code = error_of([&] {
      SafeTensors file(path);
      for (auto& t : file.tensors()) (void)error_of([&] { file.read(t); });
    });
    CHECK((code == "none" || code == "E0406"));
  }
}

TEST_CASE("What is written is read back, and half-precision types are widened exactly") {
  Scratch dir;
  std::string path = dir / "w.safetensors";
  std::vector<FloatTensor> tensors = {{"b", {3}}, {"a", {2, 5}}, {"empty", {0, 4}}, {"one", {1}}, {"long", {3, kPiece / 2 + 1}}};
  write_safetensors(path, tensors, {{"k", "v"}}, [](std::size_t i, std::int64_t first, std::span<float> out) {
    for (std::size_t k = 0; k < out.size(); ++k)
      out[k] = static_cast<float>(100 * i + static_cast<std::size_t>(first) % 1000 + k % 1000) + 0.5f;
  });
  SafeTensors file(path);
  CHECK(file.metadata().at("k") == "v");
  CHECK(file.metadata().at("checksum") == hex(file.checksum()));
  CHECK(file.read(*file.find("b")) == std::vector<float>{0.5f, 1.5f, 2.5f});
  CHECK(file.read(*file.find("a"))[9] == 109.5f);
  auto whole = file.read(*file.find("long"));
  CHECK(whole[kPiece] == 400 + kPiece % 1000 + 0.5f);
  CHECK(whole.size() == 3 * kPiece / 2 + 3);
  CHECK(file.find("a")->shape == std::vector<std::int64_t>{2, 5});

  std::string data;
  for (std::uint16_t bits : {0x3f80, 0xc0a0}) data.append(reinterpret_cast<const char*>(&bits), 2);  // bf16 1, −5
  for (std::uint16_t bits : {0x3c00, 0x0001, 0xfbff, 0x7c00}) data.append(reinterpret_cast<const char*>(&bits), 2);
  std::string json = R"({"x":{"dtype":"BF16","shape":[2],"data_offsets":[0,4]},"y":{"dtype":"F16","shape":[4],"data_offsets":[4,12]}})";
  SafeTensors half(dir.write("h.safetensors", header_and_data(json, 0) + data));
  CHECK(half.read(*half.find("x")) == std::vector<float>{1.f, -5.f});
  CHECK(half.read(*half.find("y")) == std::vector<float>{1.f, 0x1p-24f, -65504.f, INFINITY});
}

TEST_CASE("A file under construction appears only when it is complete") {
  Scratch dir;
  dir.write("f", "old");
  {
    AtomicFile file(dir / "f");
    file.write("half of the new");
    CHECK(read_file(dir / "f") == "old");
  }
  CHECK(read_file(dir / "f") == "old");
  CHECK_FALSE(std::filesystem::exists(dir / "f.tmp"));
  write_file(dir / "f", "new");
  CHECK(read_file(dir / "f") == "new");
}

TEST_CASE("The checksum sees every flipped bit, cut and swap") {
  std::string data(1000, 'x');
  for (std::size_t i = 0; i < data.size(); ++i) data[i] = static_cast<char>(i * 31);
  auto sum = [](const std::string& s) {
    Checksum c;
    c.add(std::as_bytes(std::span(s)));
    return c.value();
  };
  const auto expected = sum(data);
  for (std::size_t bit = 0; bit < 8 * data.size(); bit += 7) {
    std::string other = data;
    other[bit / 8] = static_cast<char>(other[bit / 8] ^ (1 << bit % 8));
    CHECK(sum(other) != expected);
  }
  for (std::size_t n = 990; n < 1000; ++n) CHECK(sum(data.substr(0, n)) != expected);
  std::string swapped = data.substr(8, 8) + data.substr(0, 8) + data.substr(16);
  CHECK(sum(swapped) != expected);
  CHECK(sum(data + '\0') != expected);
}

// ---- Initial weights

TEST_CASE("Initial weights do not depend on how tensors are split") {
  for (bool tied : {false, true}) {
    Strategy split;
    split.tp = split.dp = split.pp = 2, split.sp = true, split.zero = 1;
    Ranks one(tiny_plan({}, tied)), many(tiny_plan(split, tied));
    one.init(99);
    many.init(99);
    CHECK(many.first_difference() == "");
    for (auto& t : one.tensors()) CHECK(one.read(State::weights, t.name) == many.read(State::weights, t.name));
  }
}

TEST_CASE("Initial weights are normal, with the deviation that each tensor should have") {
  Param p;
  p.full_shape = p.shape = {400, 500};
  auto moments = [&](const std::string& name, std::uint64_t seed) {
    p.name = name;
    std::vector<float> w(200'000);
    init_weights(p, 0, 8, seed, 0, w);
    double mean = 0, square = 0, fourth = 0, neighbours = 0;
    for (std::size_t i = 0; i < w.size(); ++i) {
      mean += w[i];
      square += double(w[i]) * w[i];
      fourth += std::pow(double(w[i]), 4);
      if (i) neighbours += double(w[i]) * w[i - 1];
    }
    double n = 200'000, deviation = std::sqrt(square / n);
    CHECK(std::abs(mean / n) < 5 * deviation / std::sqrt(n));  // five standard errors
    CHECK(std::abs(fourth / n / std::pow(deviation, 4) - 3) < 5 * std::sqrt(24 / n));
    CHECK(std::abs(neighbours / square) < 5 / std::sqrt(n));
    return deviation;
  };
  CHECK(std::abs(moments("model.layers.0.mlp.up_proj.weight", 1) / 0.02 - 1) < 0.01);
  CHECK(std::abs(moments("model.layers.0.mlp.down_proj.weight", 1) / (0.02 / 4) - 1) < 0.01);
  CHECK(std::abs(moments("model.layers.3.self_attn.o_proj.weight", 2) / (0.02 / 4) - 1) < 0.01);
}

TEST_CASE("The rows that pad a vocabulary are zero and stay so") {
  Strategy s;
  s.tp = 4;
  Plan plan = tiny_plan(s);  // 131 = 4 · 33 − 1
  const Param* p = nullptr;
  Ranks ranks(plan);
  for (auto& param : ranks.programs().programs[0].params)
    if (param.name == "lm_head.weight") p = &param;
  REQUIRE(p != nullptr);
  REQUIRE(p->shape[0] == 33);
  std::vector<float> part(static_cast<std::size_t>(p->elements()), 1.f);
  init_weights(*p, 3, 4, 1, 0, part);
  std::vector<float> middle(100);
  init_weights(*p, 3, 4, 1, 555, middle);
  CHECK(std::equal(middle.begin(), middle.end(), part.begin() + 555));
  for (std::size_t i = 32 * 48; i < part.size(); ++i) CHECK(part[i] == 0.f);
  CHECK(part[0] != 0.f);
  std::int64_t visited = 0;
  for (int tp = 0; tp < 4; ++tp) for_each_run(*p, tp, [&](std::int64_t, std::int64_t, std::int64_t n) { visited += n; });
  CHECK(visited == 131 * 48);
}

// ---- Checkpoints

TEST_CASE("A checkpoint of one strategy is read by another, bit for bit") {
  Scratch dir;
  const Identity identity = {{"model", "tiny"}};
  for (bool tied : {false, true}) {
    Strategy a, b;
    a.tp = 4, a.dp = 2, a.zero = 1, a.grad_bucket = 1;  // how gradients were cut into buckets is not in the file
    b.pp = 2, b.dp = 4, b.zero = 1, b.layers_per_stage = {3, 1};
    Ranks from(tiny_plan(a, tied)), to(tiny_plan(b, tied));
    from.init(1);
    for (std::int64_t step = 1; step <= 2; ++step) from.step({step, 1e-3}, tiny_source(step));
    std::string folder = dir / (tied ? "tied" : "untied");
    save_checkpoint(folder, from, {2, 16}, identity);
    Progress p = load_checkpoint(*latest_checkpoint(folder), to, identity);
    CHECK(p.step == 2);
    CHECK(p.samples == 16);
    CHECK(to.first_difference() == "");
    for (auto& t : from.tensors())
      for (State s : {State::weights, State::moment1, State::moment2}) CHECK(from.read(s, t.name) == to.read(s, t.name));
  }
}

TEST_CASE("The last two checkpoints are kept; damaged and foreign ones are refused") {
  Scratch dir;
  Ranks ranks(tiny_plan({}));
  ranks.init(1);
  const Identity identity = {{"seed", "1"}, {"model", "tiny"}};
  for (std::int64_t step : {5, 10, 15}) save_checkpoint(dir / "c", ranks, {step, step}, identity);
  CHECK_FALSE(std::filesystem::exists(dir / "c/step-00000005.safetensors"));
  const std::string path = *latest_checkpoint(dir / "c");
  CHECK(path == dir / "c/step-00000015.safetensors");
  CHECK(load_checkpoint(path, ranks, identity).step == 15);

  std::string message;
  CHECK(error_of([&] { load_checkpoint(path, ranks, {{"seed", "2"}, {"model", "tiny"}}); }, &message) == "E0407");
  CHECK(message.find("seed was 1 there and is 2 here") != message.npos);
  Plan wider = tiny_plan({});
  wider.model.intermediate_size = 96;
  Ranks other(wider);
  CHECK(error_of([&] { load_checkpoint(path, other, identity); }, &message) == "E0407");
  CHECK(message.find("mlp") != message.npos);

  std::string bytes = read_file(path);
  for (std::size_t at : {bytes.size() - 1, bytes.size() / 2}) {
    std::string damaged = bytes;
    damaged[at] = static_cast<char>(damaged[at] ^ 1);
    dir.write("c/step-00000015.safetensors", damaged);
    CHECK(error_of([&] { load_checkpoint(path, ranks, identity); }) == "E0408");
  }
  dir.write("c/step-00000015.safetensors", bytes.substr(0, bytes.size() / 2));
  CHECK(error_of([&] { load_checkpoint(path, ranks, identity); }) == "E0406");
  dir.write("c/step-00000015.safetensors.tmp", "half");
  dir.write("c/step-x.safetensors", "");
  CHECK(*latest_checkpoint(dir / "c") == path);
}

TEST_CASE("Exported weights are read back, with their config.json, as the same model") {
  Scratch dir;
  for (bool tied : {false, true}) {
    Strategy split;
    split.tp = split.pp = 2;
    Plan plan = tiny_plan(split, tied);
    plan.model.rope_scaling = {"llama3", 8, 1, 4, 32};
    Ranks ranks(plan), one(tiny_plan({}, tied));
    ranks.init(3);
    export_weights(dir / "hf", ranks, plan.model);
    load_weights(dir / "hf/model.safetensors", one);
    for (auto& t : one.tensors()) CHECK(ranks.read(State::weights, t.name) == one.read(State::weights, t.name));
    ModelConfig model = read_model(dir / "hf");
    CHECK(model.tie_word_embeddings == tied);
    CHECK(model.head_dim == plan.model.head_dim);
    CHECK(model.rope_scaling == plan.model.rope_scaling);
    CHECK(parameters(model) == parameters(plan.model));
    std::filesystem::remove_all(dir / "hf");
  }
  Ranks one(tiny_plan({}));
  std::string path = dir.write("w.safetensors", header_and_data(kTwo, 12));
  CHECK(error_of([&] { load_weights(path, one); }) == "E0407");
}

}  // namespace
}  // namespace llmplan
