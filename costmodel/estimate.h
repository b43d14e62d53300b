// The closed form: what a strategy costs in memory, FLOPs, communication and time, in microseconds of
// CPU time. The search's bound, and what `llmplan estimate` prints.
#pragma once

#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "costmodel/cluster.h"
#include "costmodel/model.h"
#include "costmodel/runtime.h"
#include "costmodel/strategy.h"

namespace llmplan {

struct Memory {  // of one device of the stage with the highest peak
  Bytes weights{}, gradients{}, optimizer{}, activations{}, logits{}, buffers{}, reserve{};
  Bytes peak{};      // the sum of the above: what must fit
  Bytes cached{};    // what a caching allocator holds beyond that; it gives it back before it fails
  Bytes capacity{};
  int peak_stage = 0;
  std::string_view moment;  // of the peak: "at the loss", …
  Bytes allocated() const { return peak - reserve; }                // as frameworks report it,
  Bytes reserved() const {                                          // with their allocator's cache
    const Bytes all = allocated() + cached, room = capacity - reserve;
    return capacity.value > 0 && all > room && peak <= capacity ? room : all;
  }
};

struct Time {  // exposed seconds of one step; they add up to step
  Seconds step{}, compute{}, tp_comm{}, cp_comm{}, ep_comm{}, dp_comm{}, pp_comm{}, bubble{}, optimizer{}, host{};
};

struct Communication {
  std::string group;         // "tp", "dp", "pp", …
  std::string collective;    // kind_of() of the op
  Bytes bytes_per_device{};  // one step, all of them
  std::int64_t count = 0;
  Seconds seconds{}, exposed_seconds{};
};

struct StepFlops {  // one step, whole model, all devices
  Flops model_causal{};  // forward and backward; attention as a causal mask needs it
  Flops model_full{};    // the same, attention not halved (Megatron's convention)
  Flops hardware{};      // with recomputation
};

struct Estimate {
  Strategy strategy;
  bool fits = false;
  std::string reason;        // when it does not fit: by how much
  Memory memory;
  std::vector<Memory> memory_per_stage;
  Time time;
  std::vector<Communication> communication;
  StepFlops flops;
  double tokens_per_s = 0, tokens_per_s_per_device = 0;
  double tflops_per_device = 0;  // model_causal
  double mfu = -1, hfu = -1;     // fractions of the dense peak; -1: no peak is known
  double days = -1;              // for workload.tokens; -1: not stated
};

// A strategy that cannot be built at all, e.g. heads that do not divide.
struct Infeasible {
  std::string constraint;  // short and countable: "heads", "kv_heads", "layers", "batch", "devices", …
  std::string reason;      // "28 attention heads cannot be split over tp=8"
  std::string hint;        // "valid tp: 1 2 4"
};

// workload.seq, or what it stands for when it is 0.
std::int64_t sequence_length(const ModelConfig&, const Workload&);

// The first rule that the strategy breaks, or an empty constraint. No time or memory is computed.
Infeasible check(const ModelConfig&, const Cluster&, const Workload&, const Strategy&);

// llmplan's own programs; what cannot be lowered is priced by the general form with llmplan's constants.
std::variant<Estimate, Infeasible> estimate(const ModelConfig&, const Cluster&, const Workload&,
                                            const Strategy&);
// The same as another software would do it (read_runtime(workload.runtime)).
std::variant<Estimate, Infeasible> estimate(const ModelConfig&, const Cluster&, const Workload&,
                                            const Strategy&, const Runtime&);
// Empty when lower() has a program for it; else what it lacks.
std::string why_not_lowerable(const ModelConfig&, const Workload&, const Strategy&);

struct ForwardFlops {  // of one token through the whole model
  double attention_linears = 0, mlp = 0, head = 0, attention_causal = 0, attention_full = 0;
};
ForwardFlops forward_flops(const ModelConfig&, std::int64_t seq);
StepFlops step_flops(const ModelConfig&, const Workload&, const Strategy&);

// One op alone on one device, from roofline × efficiency, or from the calibration where it knows the op.
// `ranks` × `threads` says how a CPU's cores are shared; ignored for other devices.
Seconds op_time(const Op&, const Device&, int ranks = 1, int threads = 1);

// A collective or transfer over the group that `axis` forms in this strategy on this cluster.
Seconds transfer_time(const Op&, const Cluster&, const Strategy&, bool rings_only = false);

}  // namespace llmplan
