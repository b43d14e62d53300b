// What is to be trained (Workload) and how it is spread over devices (Strategy).
#pragma once

#include <algorithm>
#include <cstdint>
#include <string>
#include <vector>

#include "costmodel/op.h"

namespace llmplan {

// adamw_lean: bf16 weights without an fp32 master and bf16 moments, both rounded stochastically.
enum class OptimizerKind : std::uint8_t { adamw, lion, sgd, adamw_8bit, adafactor, adamw_lean };

struct Optimizer {
  OptimizerKind kind = OptimizerKind::adamw;
  double lr = 1e-3, min_lr = 1e-4;   // linear warm-up to lr, then cosine down to min_lr at the last step
  std::int64_t warmup_steps = 20;
  double beta1 = 0.9, beta2 = 0.95, eps = 1e-8, weight_decay = 0.1;
  double clip = 1.0;                 // global gradient norm; 0: no clipping
  double loss_scale = 65536;         // fp16: what the loss is multiplied with at first,
  std::int64_t loss_scale_window = 2000;  // and after how many good steps in a row that doubles
  bool operator==(const Optimizer&) const = default;
};

struct Workload {
  std::int64_t seq = 0;              // tokens per sequence; 0: the model's own, at most 4096
  std::int64_t global_batch = 0;     // sequences per step
  std::int64_t tokens = 0;           // of the whole training run; 0: not stated
  DType precision = DType::bf16;     // of weights and activations; fp32 on CPUs
  Optimizer optimizer;
  bool documents = false;            // attention does not cross document boundaries, and positions start anew
  std::string runtime = "llmplan";   // the software that is modelled, see costmodel/runtimes
  std::uint64_t seed = 1234;
  bool operator==(const Workload&) const = default;
};

enum class Recompute : std::uint8_t { none, selective, full };
enum class Schedule : std::uint8_t { gpipe, one_f_one_b, interleaved, zb_h1 };
enum class AttentionKernel : std::uint8_t { flash, unfused };

struct Offload {
  bool optimizer = false, gradients = false, weights = false, activations = false;
  bool operator==(const Offload&) const = default;
};

// Hierarchical forms of ZeRO. 0 leaves each off.
struct ZeroGroups {
  std::int64_t shard = 0;                  // ranks that share the states; copies of them elsewhere in dp·cp (HSDP); 0: all of dp·cp
  std::int64_t secondary = 0;              // ZeRO-3: ranks that share a second copy of the weights, for backward (ZeRO++ hpZ)
  int weight_bits = 0, gradient_bits = 0;  // per element on the wire (ZeRO++ qwZ and qgZ); 0: as the runtime sends them
  bool operator==(const ZeroGroups&) const = default;
};

// Rank order is Megatron's: tp fastest, then cp, then dp, then pp slowest. Experts are laid over the same ranks of a
// stage: etp fastest, then ep, then their data parallelism; ep·etp divides tp·cp·dp.
struct Strategy {
  std::int64_t tp = 1, pp = 1, vpp = 1, cp = 1, ep = 1, dp = 1;
  std::int64_t etp = 0;                    // tensor parallelism of experts; 0: as tp
  int zero = 0;                            // 0..3
  ZeroGroups zero_groups;
  bool sp = false;                         // Megatron sequence parallelism, needs tp > 1
  std::int64_t micro_batch = 1;            // sequences per micro-batch and data-parallel rank
  Recompute recompute = Recompute::none;
  std::int64_t recompute_layers = 0;       // with full: only that many layers of each stage; 0: all
  Schedule schedule = Schedule::one_f_one_b;
  std::vector<std::int64_t> layers_per_stage;  // pp·vpp entries; empty: as even as can be, see layer_split
  AttentionKernel attention = AttentionKernel::flash;
  Offload offload;
  std::int64_t grad_bucket = 0;            // elements whose gradients are reduced together, at least; 0: least_bucket()
  bool operator==(const Strategy&) const = default;

  std::int64_t devices() const { return tp * cp * dp * pp; }
  std::int64_t expert_tp() const { return etp > 0 ? etp : tp; }
  std::int64_t expert_dp() const { return std::max<std::int64_t>(1, tp * cp * dp / (expert_tp() * ep)); }  // ranks with the same experts
  // Megatron-Core's default (DistributedDataParallelConfig, bucket_size): a message that uses the network's rate, larger where
  // rings are longer.
  std::int64_t least_bucket() const { return grad_bucket > 0 ? grad_bucket : std::max<std::int64_t>(40'000'000, 1'000'000 * dp); }
  std::int64_t zero_shard() const { return zero_groups.shard > 0 ? zero_groups.shard : cp * dp; }
};

std::string_view name_of(Recompute);
std::string_view name_of(Schedule);
std::string_view name_of(AttentionKernel);
std::string_view name_of(OptimizerKind);
// "dp2 tp4 pp2 zero1 sp mbs1 1f1b recompute full": short, stable; what is at its default is left out.
std::string describe(const Strategy&);

// Layers of each stage: layers_per_stage, or `layers` dealt evenly, the first `layers mod pp` stages one more.
std::vector<std::int64_t> layer_split(const Strategy&, std::int64_t layers);

}  // namespace llmplan
