// How the software that is modelled behaves. A runtime is data (hardware_profiles' neighbour, the folder
// costmodel/runtimes): few constants, each with a meaning, the same for every model, strategy and device.
#pragma once

#include <cstdint>
#include <string>

#include "costmodel/strategy.h"
#include "costmodel/units.h"

namespace llmplan {

// What `recompute selective` drops.
enum class Selective : std::uint8_t {
  attention,  // the attention core: scores, softmax, dropout (Korthikanti et al. 2022)
  matmuls,    // every other matrix product, and everything pointwise (torchtitan's per-op selection)
};
// How context parallelism brings keys and values together.
enum class ContextParallel : std::uint8_t { ring, all_gather, all_to_all };

struct Runtime {
  std::string name = "llmplan";
  std::string title;
  std::string base;                 // the runtime that this one is derived from: it differs in what its file states
  std::string like;                 // one whose constants stand in for those that nobody measured here
  bool lowered = false;             // llmplan itself: its program is priced op by op where it can be lowered

  // ---- Kernels
  bool fa2 = false;                 // its flash attention is FlashAttention-2, not kernels made for the device
  double attention_rate = 1;        // speed of its flash attention, × such kernels
  double pointwise = 1;             // traffic of norms, activations, residuals and casts, × that of fused kernels
  double score_bytes_forward = 9;   // unfused attention: bytes moved per score beside its two GEMMs
  double score_bytes_backward = 11;
  double fp8_cast_bytes = 4;        // bytes moved per element that is cast: read 2, write it and its transpose
  double loss_bytes = 20;           // bytes moved per logit by the loss, forward and backward
  double kernels_forward = 12;      // kernels of one layer, one pass
  double kernels_backward = 24;
  Seconds dispatch{};               // host time per kernel; a pass takes at least its kernels' dispatch
  Seconds collective_dispatch{};    // host time per collective inside a layer, beside its kernel's
  double lockstep = 0;              // with tp, the share of the lesser of host and device time that shows, too: at
                                    // every collective all ranks wait for the one whose host or device is late
  Seconds micro_batch_overhead{};   // host time per micro-batch and stage
  Seconds step_overhead{};          // host time per step
  double optimizer_traffic = 1;     // × the bytes that the update must move

  // ---- Communication: the share of it that can run behind computing, given enough of that
  double tp_overlap = 0, cp_overlap = 0, ep_overlap = 0, pp_overlap = 0;
  double dp_overlap = 0;            // gradients, behind the last backward pass
  double gather_overlap = 0;        // ZeRO's weights
  double gradient_comm_bytes = 4;   // per element, on the wire
  bool zero3_gathers_twice = true;  // weights are dropped after the forward pass and gathered again
  bool reduce_every_micro_batch = false;  // ZeRO ≥ 2 and no accumulation of whole gradients
  bool split_transfers = false;     // tp ranks send a slice each between stages (Narayanan et al. 2021, §4.1)
  ContextParallel cp = ContextParallel::ring;
  Seconds owner_broadcast{};        // ZeRO-1 and 2: weights go out from one owner after another; of each, beyond its bytes
  bool rings_only = false;          // all-reduces between nodes are rings, never trees
  double straggling = 0;            // step time grows by this share per doubling of the nodes

  // ---- Memory
  double gradient_bytes = 4;        // per parameter
  double micro_gradient_bytes = 0;  // per parameter: one micro-batch's gradients, before they are added to the others
  double step_bytes = 0;            // per parameter that a rank updates: what its optimizer makes and drops in a step
  bool master_weights = true;       // fp32 copy beside low-precision weights
  bool fp32_parameters = false;     // FSDP: the sharded parameter is fp32 itself, low precision only when gathered
  bool dropout = false;             // masks are kept, one byte per element
  double norm_copies = 1;           // outputs kept per norm, beside its input
  double activation_copies = 1;     // tensors of the MLP's width that are kept beside gate and up
  double pointwise_saved = 0;       // further bytes kept per token and layer, as a multiple of hidden
  double scores_kept = 0;           // unfused attention: bytes kept per score, where more than one copy
  bool gathered_inputs = false;     // under sp, linears keep their gathered input instead of gathering it again
  double logits_bytes = 6;          // bytes alive per logit when the loss is computed
  double logits_cached = 0;         // bytes per logit that the allocator holds beyond these
  bool whole_logits = false;        // tp ranks gather the vocabulary for the loss
  bool gradient_placeholders = false; // TransformerEngine: a low-precision tensor per weight shape, never read
  double zero3_layers = 2;          // gathered layers alive at once
  Bytes bucket{};                   // communication buffers
  Bytes reserve{};                  // beyond the device's: workspaces, communicators
  double fragmentation = 0;         // share by which the memory that the allocator holds exceeds what is alive
  Selective selective = Selective::attention;
  std::int64_t vocab_multiple = 1;  // vocabulary is padded to a multiple of this times tp
  bool operator==(const Runtime&) const = default;
};

}  // namespace llmplan
