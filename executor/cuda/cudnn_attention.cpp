#include "executor/cuda/cudnn_attention.h"

#include <cuda_runtime.h>
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <unordered_map>
#include <variant>
#include <vector>

#include "executor/cuda/cudnn_attention_graph.h"
#include "executor/cuda/status.h"
#include "planner/program.h"

namespace llmplan::cuda {
namespace {

using Operand = std::pair<std::int64_t, void*>;  // a stored tensor's id and where it is
template <class T>
Operand operand(Tensor t, const T* at) { return {t.id, const_cast<std::remove_const_t<T>*>(at)}; }

// A plan for one op, and the graph that says which tensors it wants.
struct Prepared {
  std::variant<AttentionGraph, AttentionGradGraph> graph;
  std::optional<CudnnPlan> plan{};
  std::int64_t sum_bytes = 0;  // of the backward's dq_sum, at the start of the op's workspace
};

class CudnnAttention final : public AttentionLibrary {
 public:
  CudnnAttention(const CudnnApi& api, int device, void* workspace, std::size_t bytes)
      : api_(api), workspace_(workspace), bytes_(static_cast<std::int64_t>(bytes)) {
    cudaDeviceProp properties{};
    check(cudaGetDeviceProperties(&properties, device), "properties");
    card_ = properties.name;
    std::replace(card_.begin(), card_.end(), ' ', '-');
    target_.major = properties.major;
    check(api_, api_.create(&target_.handle), "a handle");
  }
  ~CudnnAttention() override {
    prepared_.clear();
    api_.destroy(target_.handle);
  }

  std::string name() const override { return cudnn_version(); }
  std::string identity() const override { return fmt::format("{}-cudnn-{}", card_, api_.version()); }

  std::string prepare(const Op& op, bool same_bits) override {
    try {
      std::unique_ptr<Prepared> p;
      std::int64_t least = 0, room = bytes_;
      if (auto* forward = std::get_if<Attention>(&op)) {
        p.reset(new Prepared{attention_graph(api_, *forward)});
        p->plan = fitting_plan(api_, std::get<AttentionGraph>(p->graph).graph, target_, room, least);
      } else {
        const auto& backward = std::get<AttentionGrad>(op);
        p.reset(new Prepared{attention_grad_graph(api_, backward, same_bits)});
        auto& graph = std::get<AttentionGradGraph>(p->graph);
        if (graph.dq_sum.at) p->sum_bytes = sum_bytes(backward);
        room = backward.workspace - p->sum_bytes;
        p->plan = fitting_plan(api_, graph.graph, target_, room, least, same_bits ? same_bits_wish(api_, target_) : CudnnWish{});
      }
      if (!p->plan)
        return fmt::format("its plans need at least {:.1f} MiB of workspace, and the program has {:.1f}",
                           mib(least + p->sum_bytes), mib(room + p->sum_bytes));
      prepared_[op] = std::move(p);
      return "";
    } catch (const CudnnRefusal& e) {
      return e.what();
    }
  }

  void run(const Op& op, std::span<const std::byte* const> reads, std::span<std::byte* const> writes, CUstream_st* stream) override {
    const Prepared& p = *prepared_.at(op);
    check(api_, api_.set_stream(target_.handle, stream), "a stream");
    if (auto* forward = std::get_if<Attention>(&op)) {
      const auto [q, k, v] = packed(*forward, reads[0]);
      const auto& g = std::get<AttentionGraph>(p.graph);
      const std::array operands{operand(g.q, q), operand(g.k, k), operand(g.v, v), operand(g.out, writes[0]), operand(g.lse, writes[1])};
      p.plan->run(target_.handle, operands, workspace_);
    } else {
      const auto& backward = std::get<AttentionGrad>(op);
      const auto [q, k, v] = packed(backward, reads[0]);
      const auto [dq, dk, dv] = packed(backward, writes[0]);
      const auto& g = std::get<AttentionGradGraph>(p.graph);
      std::vector<Operand> operands{operand(g.q, q), operand(g.k, k), operand(g.v, v), operand(g.out, reads[1]), operand(g.lse, reads[2]),
                                    operand(g.dout, reads[3]), operand(g.dq, dq), operand(g.dk, dk), operand(g.dv, dv),
                                    operand(g.delta, writes[1])};
      if (g.dq_sum.at) operands.push_back(operand(g.dq_sum, writes[2]));
      p.plan->run(target_.handle, operands, writes[2] + p.sum_bytes);
    }
  }

 private:
  static double mib(std::int64_t bytes) { return static_cast<double>(bytes) / (1 << 20); }

  // Where q, k and v begin in packed qkv.
  template <class AnyOp>
  static std::array<const std::byte*, 3> packed(const AnyOp& a, const std::byte* qkv) {
    const std::int64_t head = a.head_dim * size_of(a.dtype);
    return {qkv, qkv + a.heads * head, qkv + (a.heads + a.kv_heads) * head};
  }

  const CudnnApi& api_;
  void* workspace_;
  std::int64_t bytes_;
  std::string card_;
  CudnnTarget target_;
  std::unordered_map<Op, std::unique_ptr<Prepared>, OpHash> prepared_;
};

}  // namespace

std::unique_ptr<AttentionLibrary> make_cudnn_attention(int device, void* workspace, std::size_t bytes, std::string& why_not) {
  const CudnnLibrary& library = cudnn_library();
  why_not = library.why_not;
  if (!library.api) return nullptr;
  try {
    return std::make_unique<CudnnAttention>(*library.api, device, workspace, bytes);
  } catch (const CudnnRefusal& e) {
    why_not = e.what();
    return nullptr;
  }
}

}  // namespace llmplan::cuda
