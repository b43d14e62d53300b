// What cuDNN says of attention's graphs, for cards that are only described: it finds engines, generates and compiles
// their kernels, and says how much workspace they take. No GPU is needed, and nothing runs.
#include <doctest/doctest.h>

#include <dlfcn.h>
#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <limits>
#include <map>
#include <set>
#include <tuple>

#include "costmodel/block.h"
#include "costmodel/estimate.h"
#include "costmodel/profiles/profiles.h"
#include "executor/cuda/cudnn_attention_graph.h"

using namespace llmplan;
using namespace llmplan::cuda;

namespace {

struct Usable { const CudnnApi* api; std::string why_not; };
// The driver must be loaded first: cuDNN's own dlopen of libcuda.so.1 then finds it by its name.
const Usable& usable() {
  static const Usable found = []() -> Usable {
    if (!dlopen(MADE_UP_DRIVER, RTLD_NOW | RTLD_GLOBAL)) return {nullptr, dlerror()};
    const CudnnLibrary& library = cudnn_library();
    if (library.api && library.api->version() < 91100) return {nullptr, "plans for described devices need 9.11"};
    return {library.api, library.why_not};
  }();
  return found;
}
const CudnnApi* cudnn() { return usable().api; }
bool no_cudnn() { return !cudnn(); }

// What cudaDeviceGetAttribute says of the cards that llmplan is built for; names are cuDNN's.
struct Card { const char* name; int version, processors, shared_bytes; std::int64_t memory; };
constexpr Card kCards[] = {{"NVIDIA A100-SXM4-80GB", 800, 108, 166912, 85'000'000'000},
                           {"NVIDIA H200", 900, 132, 232448, 150'000'000'000},
                           {"NVIDIA B200", 1000, 148, 232448, 191'000'000'000}};

Descriptor describe(const Card& c) {
  const std::string json = fmt::format(
      R"({{"maxGridSize":[2147483647,65535,65535],"maxBlockSize":[1024,1024,64],"regsPerBlock":65536,"multiProcessorCount":{},)"
      R"("warpSize":32,"maxSharedMemoryPerBlock":49152,"maxSharedMemoryPerBlockOptin":{},"reservedSharedMemoryPerBlock":1024,)"
      R"("maxRegistersPerSM":65536,"maxCtasPerSM":32,"maxThreadsPerBlock":1024,"maxThreadsPerSM":2048,"pciDeviceId":0,)"
      R"("isTccDriver":0,"supportCoopLaunch":1,"totalGlobalMem":{},"smClockRateKHz":1980000,"memClockRateKHz":3201000,)"
      R"("l2CacheSize":62914560,"cudaDeviceId":0,"deviceVer":{},"driverVer":13000,"deviceName":"{}"}})",
      c.processors, c.shared_bytes, c.memory, c.version, c.name);
  Descriptor d(*cudnn(), CUDNN_BACKEND_DEVICEPROP_DESCRIPTOR);
  d.set(CUDNN_ATTR_DEVICEPROP_JSON_REPRESENTATION, std::span<const char>(json));
  d.finalize("the description of a card");
  return d;
}

// The backward attention of a layer on one GPU, as a program of llmplan has it.
AttentionGrad backward_of(const std::string& model, std::int64_t micro_batch, std::int64_t seq, DType precision = DType::bf16) {
  Workload w;
  w.precision = precision;
  w.seq = seq;
  Strategy st;
  st.micro_batch = micro_batch;
  const Shapes s = shapes_of(read_model(model), read_cluster("h200-141g-sxm"), w, st);
  return {s.micro_batch, s.seq, s.heads, s.kv_heads, s.head_dim, true, s.dtype, false, s.library_workspace};
}
Attention forward_of(const AttentionGrad& a) { return {a.batch, a.seq, a.heads, a.kv_heads, a.head_dim, true, a.dtype}; }

// The built-in models that llmplan runs and whose heads cuDNN may take: one for each shape of attention.
std::map<std::string, AttentionGrad> shapes() {
  std::map<std::string, AttentionGrad> all;
  std::set<std::tuple<std::int64_t, std::int64_t, std::int64_t, std::int64_t>> seen;
  for (const std::string& name : model_names()) {
    if (!why_not_runnable(read_model(name)).empty()) continue;
    const AttentionGrad op = backward_of(name, 2, 2048);
    if (op.workspace > 0 && seen.insert({op.heads, op.kv_heads, op.head_dim, op.workspace}).second) all.emplace(name, op);
  }
  return all;
}

// The least workspace of the engines that cuDNN suggests.
std::int64_t least(CudnnGraph& graph, const Card& card, bool same_bits = false) {
  const Descriptor device = describe(card);
  const CudnnTarget target{nullptr, &device, card.version / 100};
  const CudnnWish wish = same_bits ? same_bits_wish(*cudnn(), target) : CudnnWish{};
  std::int64_t bytes = std::numeric_limits<std::int64_t>::max();
  for (const CudnnEngine& e : suggestions(*cudnn(), graph, target, wish)) bytes = std::min(bytes, e.workspace);
  return bytes;
}
std::int64_t forward_needs(const Attention& op, const Card& card) {
  AttentionGraph g = attention_graph(*cudnn(), op);
  return least(g.graph, card);
}
std::int64_t backward_needs(const AttentionGrad& op, const Card& card, bool same_bits) {
  AttentionGradGraph g = attention_grad_graph(*cudnn(), op, same_bits);
  return (g.dq_sum.at ? sum_bytes(op) : 0) + least(g.graph, card, same_bits);
}

constexpr std::int64_t kForwardWorkspace = 32 << 20;  // cuBLASLt's, which forward passes share

}  // namespace

// ctest reports this run as skipped where it says so.
TEST_CASE("the tests of this binary say whether they had cuDNN") {
  if (cudnn()) std::printf("cuDNN %zu is here: the tests run\n", cudnn()->version());
  else std::printf("no usable cuDNN on this machine, the tests are skipped: %s\n", usable().why_not.c_str());
}

TEST_SUITE("cuDNN, for described cards" * doctest::skip(no_cudnn())) {
  TEST_CASE("it has engines for the attention of every built-in model, forward within cuBLASLt's workspace") {
    const auto all = shapes();
    CHECK(all.size() >= 12);
    for (const Card& card : kCards)
      for (auto& [model, op] : all) {
        INFO(card.name << ", " << model);
        CHECK(forward_needs(forward_of(op), card) <= kForwardWorkspace);
      }
  }

  TEST_CASE("the backward pass needs what the formula of the program's workspace says, and less on sm_90 and sm_100") {
    for (const Card& card : kCards)
      for (auto& [model, op] : shapes()) {
        INFO(card.name << ", " << model);
        const std::int64_t queries = op.batch * op.heads * op.seq * op.head_dim, per_query = op.heads > op.kv_heads ? 12 : 8;
        CHECK(backward_needs(op, card, false) <= queries * (card.version < 900 ? per_query : per_query - 4) + (64 << 10));
      }
  }

  TEST_CASE("that workspace is in the programs of the models that are measured") {
    for (const Card& card : kCards)
      for (const char* model : {"llama-3.2-1b", "llama-3.2-3b", "llama-3.1-8b", "llama-3.1-70b", "llama-2-7b", "mistral-7b", "qwen3-8b"})
        for (std::int64_t seq : {4096, 8192}) {
          INFO(card.name << ", " << model);
          const AttentionGrad op = backward_of(model, 1, seq);
          CHECK(backward_needs(op, card, false) <= op.workspace);
        }
  }

  TEST_CASE("its algorithm with the same bits every time needs a place for every score, but on sm_100") {
    for (const Card& card : kCards) {
      const AttentionGrad op = backward_of("llama-3.1-8b", 1, 4096);
      INFO(card.name);
      if (card.version < 1000) CHECK(backward_needs(op, card, true) >= op.heads * op.seq * op.seq * 2);
      else if (cudnn()->version() >= 91800) CHECK(backward_needs(op, card, true) <= op.workspace);
    }
  }

  TEST_CASE("plans can be made on sm_80, sm_90 and sm_100: kernels are generated and compiled") {
    for (const Card& card : kCards) {
      const Descriptor device = describe(card);
      const CudnnTarget target{nullptr, &device, card.version / 100};
      const AttentionGrad op = backward_of("llama-3.2-1b", 1, 4096, &card == kCards ? DType::fp16 : DType::bf16);
      INFO(card.name);
      std::int64_t least = 0;
      if (card.version == 900) {  // one of each kind: a plan takes a second of compilation
        AttentionGraph forward = attention_graph(*cudnn(), forward_of(op));
        CHECK(fitting_plan(*cudnn(), forward.graph, target, kForwardWorkspace, least));
      }
      AttentionGradGraph backward = attention_grad_graph(*cudnn(), op, false);
      CHECK(fitting_plan(*cudnn(), backward.graph, target, op.workspace - sum_bytes(op), least));
      if (same_bits_wish(*cudnn(), target).engine >= 0) {
        AttentionGradGraph ordered = attention_grad_graph(*cudnn(), op, true);
        CHECK(fitting_plan(*cudnn(), ordered.graph, target, op.workspace, least, same_bits_wish(*cudnn(), target)));
      }
      AttentionGradGraph tight = attention_grad_graph(*cudnn(), op, false);
      CHECK_FALSE(fitting_plan(*cudnn(), tight.graph, target, 1 << 20, least));
      CHECK(least > 1 << 20);
    }
  }

  TEST_CASE("a graph that no engine takes is refused with a reason") {
    AttentionGrad op = backward_of("llama-3.2-1b", 1, 4096);
    op.kv_heads = 5;  // 32 query heads cannot share them
    CHECK_THROWS_AS(backward_needs(op, kCards[1], false), CudnnRefusal);
  }
}
