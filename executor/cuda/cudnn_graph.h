// As much of cuDNN's backend interface as attention needs: descriptors, a graph of operations over four-dimensional
// tensors, and plans that carry it out. Everything throws CudnnRefusal.
#pragma once

#include <array>
#include <deque>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "executor/cuda/cudnn_library.h"

namespace llmplan::cuda {

// Which attribute type a C++ type is.
template <class T> struct CudnnType;
template <> struct CudnnType<std::int64_t> { static constexpr auto value = CUDNN_TYPE_INT64; };
template <> struct CudnnType<bool> { static constexpr auto value = CUDNN_TYPE_BOOLEAN; };
template <> struct CudnnType<char> { static constexpr auto value = CUDNN_TYPE_CHAR; };
template <> struct CudnnType<cudnnHandle_t> { static constexpr auto value = CUDNN_TYPE_HANDLE; };
template <> struct CudnnType<cudnnDataType_t> { static constexpr auto value = CUDNN_TYPE_DATA_TYPE; };
template <> struct CudnnType<cudnnPointwiseMode_t> { static constexpr auto value = CUDNN_TYPE_POINTWISE_MODE; };
template <> struct CudnnType<cudnnReduceTensorOp_t> { static constexpr auto value = CUDNN_TYPE_REDUCTION_OPERATOR_TYPE; };
template <> struct CudnnType<cudnnBackendHeurMode_t> { static constexpr auto value = CUDNN_TYPE_HEUR_MODE; };
template <> struct CudnnType<cudnnBackendKnobType_t> { static constexpr auto value = CUDNN_TYPE_KNOB_TYPE; };
template <> struct CudnnType<cudnnBackendDescriptor_t> { static constexpr auto value = CUDNN_TYPE_BACKEND_DESCRIPTOR; };  // a void*

// Its attributes are set, then it is finalized; others may refer to it from then on, while it lives.
class Descriptor {
 public:
  Descriptor(const CudnnApi&, cudnnBackendDescriptorType_t);
  Descriptor(Descriptor&& o) noexcept : api_(o.api_), at_(std::exchange(o.at_, nullptr)) {}
  Descriptor& operator=(Descriptor&& o) noexcept {
    std::swap(api_, o.api_);
    std::swap(at_, o.at_);
    return *this;
  }
  ~Descriptor() {
    if (at_) api_->destroy_descriptor(at_);
  }

  template <class T>
  Descriptor& set(cudnnBackendAttributeName_t name, std::span<const T> values, cudnnBackendAttributeType_t type = CudnnType<T>::value) {
    check(*api_, api_->set_attribute(at_, name, type, static_cast<std::int64_t>(values.size()), values.data()), "an attribute");
    return *this;
  }
  template <class T>
  Descriptor& set(cudnnBackendAttributeName_t name, const T& value) {
    return set(name, std::span<const T>(&value, 1));
  }
  Descriptor& set(cudnnBackendAttributeName_t name, const Descriptor& other) { return set(name, other.at_); }
  Descriptor& finalize(const char* what) {
    check(*api_, api_->finalize(at_), what);
    return *this;
  }
  std::int64_t integer(cudnnBackendAttributeName_t) const;  // an attribute of one number
  cudnnBackendDescriptor_t get() const { return at_; }

 private:
  const CudnnApi* api_;
  cudnnBackendDescriptor_t at_ = nullptr;
};

// What a plan is made for: the GPU of a handle, or one that is only described (a finalized DEVICEPROP descriptor).
struct CudnnTarget {
  cudnnHandle_t handle = nullptr;
  const Descriptor* device = nullptr;
  int major = 0;  // of the compute capability
};

using Dims = std::array<std::int64_t, 4>;
struct Tensor {
  std::int64_t id = 0;  // what plans know it by; 0: none
  cudnnBackendDescriptor_t at = nullptr;
};

// Operations write the tensor that they are given; tensors between operations are virtual, they are never stored.
class CudnnGraph {
 public:
  explicit CudnnGraph(const CudnnApi& api) : api_(api) {}

  Tensor stored(cudnnDataType_t, const Dims& size, const Dims& strides);
  Tensor passing(cudnnDataType_t, const Dims& size, const Dims& strides);  // virtual
  Tensor number(float value);                                             // the same in every run

  Tensor matmul(Tensor a, Tensor b, Tensor out);
  Tensor pointwise(cudnnPointwiseMode_t, Tensor x, Tensor out, Tensor b = {}, Tensor select = {});
  Tensor index(std::int64_t axis, Tensor like, Tensor out);               // an element's place along an axis
  Tensor at_least(Tensor a, Tensor b, Tensor out);                        // a ≥ b
  Tensor reduce(cudnnReduceTensorOp_t, Tensor x, Tensor out);
  Tensor reshape(Tensor x, Tensor out);

  // No more operations after this one.
  const Descriptor& finish(const CudnnTarget&);
  std::span<const std::pair<std::int64_t, float>> numbers() const { return numbers_; }

 private:
  Tensor add(cudnnDataType_t, const Dims& size, const Dims& strides, bool is_virtual, bool by_value);
  Descriptor& own(cudnnBackendDescriptorType_t type) { return all_.emplace_back(api_, type); }
  Tensor pointwise(Descriptor& mode, Tensor x, Tensor out, Tensor b, Tensor select);

  const CudnnApi& api_;
  std::deque<Descriptor> all_;  // in the order in which they were made: what is referred to comes first
  std::vector<cudnnBackendDescriptor_t> operations_;
  std::vector<std::pair<std::int64_t, float>> numbers_;  // by tensor
  std::int64_t tensors_ = 0;
  std::optional<Descriptor> graph_;
};

// A way to carry out a graph.
class CudnnPlan {
 public:
  std::int64_t workspace() const { return workspace_; }
  // Enqueues on the handle's stream. `tensors`: the address of each stored tensor, by id.
  void run(cudnnHandle_t, std::span<const std::pair<std::int64_t, void*>> tensors, void* workspace) const;

 private:
  friend CudnnPlan make_plan(const CudnnApi&, const CudnnGraph&, const CudnnTarget&, const Descriptor& engine, std::int64_t workspace);
  CudnnPlan(const CudnnApi& api, Descriptor plan, std::int64_t workspace, std::span<const std::pair<std::int64_t, float>> numbers)
      : api_(&api), plan_(std::move(plan)), workspace_(workspace), numbers_(numbers.begin(), numbers.end()) {}

  const CudnnApi* api_;
  Descriptor plan_;
  std::int64_t workspace_;
  std::vector<std::pair<std::int64_t, float>> numbers_;
};

// An engine of cuDNN's and how it is set, for one graph and target; `workspace` is what its plan will take.
struct CudnnEngine { Descriptor config; std::int64_t workspace; };
// An engine that is asked for by its number, and how it is to be set.
struct CudnnWish {
  std::int64_t engine = -1;  // −1: none
  std::vector<std::pair<cudnnBackendKnobType_t, std::int64_t>> knobs;
};
// What is wished for, if that engine takes the graph; then what cuDNN's heuristic suggests, best first. Finishes the graph.
std::vector<CudnnEngine> suggestions(const CudnnApi&, CudnnGraph&, const CudnnTarget&, const CudnnWish& = {});
// Generates and compiles the engine's kernels.
CudnnPlan make_plan(const CudnnApi&, const CudnnGraph&, const CudnnTarget&, const Descriptor& engine, std::int64_t workspace);

// The first suggestion that can be made and whose workspace is at most `limit`. None: `least` is the smallest. Throws
// what cuDNN says where none can be made.
std::optional<CudnnPlan> fitting_plan(const CudnnApi&, CudnnGraph&, const CudnnTarget&, std::int64_t limit, std::int64_t& least,
                                      const CudnnWish& = {});

}  // namespace llmplan::cuda
