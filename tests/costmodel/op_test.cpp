// FLOPs and bytes against formulas of papers and against counting.
#include <doctest/doctest.h>

#include <set>

#include "costmodel/block.h"
#include "costmodel/op.h"

namespace llmplan {
namespace {

TEST_CASE("causal attention computes every pair of a query and an earlier or equal key, and no other") {
  for (std::int64_t seq = 1; seq <= 40; ++seq) {
    std::int64_t pairs = 0;
    for (std::int64_t q = 0; q < seq; ++q)
      for (std::int64_t k = 0; k <= q; ++k) ++pairs;
    const Attention a{3, seq, 8, 2, 16, true, DType::bf16};
    CHECK(flops(a).value == 2.0 * 2 * 3 * 8 * 16 * static_cast<double>(pairs));
    Attention full = a;
    full.causal = false;
    CHECK(flops(full).value == 4.0 * 3 * 8 * 16 * static_cast<double>(seq * seq));
  }
}

TEST_CASE("flash attention's backward does 2.5 times the work of its forward (Dao 2023)") {
  const Attention a{2, 1000, 16, 4, 64, true, DType::bf16};
  const AttentionGrad g{2, 1000, 16, 4, 64, true, DType::bf16};
  CHECK(flops(g).value == 2.5 * flops(a).value);
}

TEST_CASE("a GEMM moves its three matrices once, and its output twice when it adds to it") {
  Gemm g{5, 7, 11, false, true, false, DType::bf16, DType::fp32};
  CHECK(flops(g).value == 2.0 * 5 * 7 * 11);
  CHECK(bytes_moved(g).value == (5 * 11 + 11 * 7) * 2 + 5 * 7 * 4);
  g.accumulate = true;
  CHECK(bytes_moved(g).value == (5 * 11 + 11 * 7) * 2 + 2 * 5 * 7 * 4);
}

TEST_CASE("AdamW reads and writes two moments and the weight, and reads the gradient: 28 bytes per fp32 element") {
  CHECK(bytes_moved(AdamW{100, 1, 1, DType::fp32}).value == 2800);
  CHECK(bytes_moved(AdamW{100, 1, 1, DType::bf16}).value == 3000);  // and the bf16 copy
}

TEST_CASE("a Llama layer's forward GEMMs are 2 FLOPs per weight and token, its backward's twice that") {
  Shapes s{};
  s.micro_batch = 2, s.seq = 128, s.rows = s.split_rows = 256, s.hidden = 512, s.heads = 8, s.kv_heads = 2, s.head_dim = 64;
  s.attn = 512, s.qkv = 768, s.ffn = 1024, s.tp = s.dp = s.shards = 1, s.dtype = DType::bf16;
  const double weights = 512.0 * (768 + 512 + 3 * 1024);
  double forward = 0, backward = 0;
  block::layer_forward(s, false, [&](const Op& op) { if (std::holds_alternative<Gemm>(op)) forward += flops(op).value; });
  block::layer_backward(s, true, false, [&](const Op& op) { if (std::holds_alternative<Gemm>(op)) backward += flops(op).value; });
  CHECK(forward == 2 * weights * 256);
  CHECK(backward == 4 * weights * 256);
}

TEST_CASE("every collective has a name of its own, and only transfers need another rank") {
  std::set<std::string_view> names;
  using Kind = Collective::Kind;
  for (Kind k : {Kind::all_reduce, Kind::all_gather, Kind::reduce_scatter, Kind::broadcast, Kind::all_to_all}) {
    const Op op = Collective{k, Axis::tp, 8_B, DType::fp32};
    names.insert(kind_of(op));
    CHECK(is_transfer(op));
  }
  CHECK(names.size() == 5);
  CHECK(kind_of(Send{1, 8_B}) == "send");
  CHECK(is_transfer(Recv{1, 8_B}));
  CHECK_FALSE(is_transfer(Load{4}));
  CHECK_FALSE(is_transfer(Add{4, DType::fp32}));
}

}  // namespace
}  // namespace llmplan
