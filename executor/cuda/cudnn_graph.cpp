#include "executor/cuda/cudnn_graph.h"

#include <algorithm>
#include <limits>

namespace llmplan::cuda {

Descriptor::Descriptor(const CudnnApi& api, cudnnBackendDescriptorType_t type) : api_(&api) {
  check(api, api.create_descriptor(type, &at_), "a descriptor");
}

std::int64_t Descriptor::integer(cudnnBackendAttributeName_t name) const {
  std::int64_t value = 0, count = 0;
  check(*api_, api_->get_attribute(at_, name, CUDNN_TYPE_INT64, 1, &count, &value), "to say an attribute");
  return value;
}

Tensor CudnnGraph::add(cudnnDataType_t type, const Dims& size, const Dims& strides, bool is_virtual, bool by_value) {
  constexpr std::int64_t kBytes = 16;  // of a tensor's address: buffers are aligned to 256
  Descriptor& d = own(CUDNN_BACKEND_TENSOR_DESCRIPTOR);
  d.set(CUDNN_ATTR_TENSOR_DATA_TYPE, type)
      .set(CUDNN_ATTR_TENSOR_DIMENSIONS, std::span<const std::int64_t>(size))
      .set(CUDNN_ATTR_TENSOR_STRIDES, std::span<const std::int64_t>(strides))
      .set(CUDNN_ATTR_TENSOR_UNIQUE_ID, ++tensors_)
      .set(CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT, kBytes);
  if (is_virtual) d.set(CUDNN_ATTR_TENSOR_IS_VIRTUAL, true);
  if (by_value) d.set(CUDNN_ATTR_TENSOR_IS_BY_VALUE, true);
  d.finalize("a tensor");
  return {tensors_, d.get()};
}
Tensor CudnnGraph::stored(cudnnDataType_t type, const Dims& size, const Dims& strides) { return add(type, size, strides, false, false); }
Tensor CudnnGraph::passing(cudnnDataType_t type, const Dims& size, const Dims& strides) { return add(type, size, strides, true, false); }
Tensor CudnnGraph::number(float value) {
  const Tensor t = add(CUDNN_DATA_FLOAT, {1, 1, 1, 1}, {1, 1, 1, 1}, false, true);
  numbers_.emplace_back(t.id, value);
  return t;
}

Tensor CudnnGraph::matmul(Tensor a, Tensor b, Tensor out) {
  Descriptor& how = own(CUDNN_BACKEND_MATMUL_DESCRIPTOR).set(CUDNN_ATTR_MATMUL_COMP_TYPE, CUDNN_DATA_FLOAT).finalize("a product");
  operations_.push_back(own(CUDNN_BACKEND_OPERATION_MATMUL_DESCRIPTOR)
                            .set(CUDNN_ATTR_OPERATION_MATMUL_ADESC, a.at)
                            .set(CUDNN_ATTR_OPERATION_MATMUL_BDESC, b.at)
                            .set(CUDNN_ATTR_OPERATION_MATMUL_CDESC, out.at)
                            .set(CUDNN_ATTR_OPERATION_MATMUL_DESC, how)
                            .finalize("a product")
                            .get());
  return out;
}

Tensor CudnnGraph::pointwise(Descriptor& mode, Tensor x, Tensor out, Tensor b, Tensor select) {
  mode.finalize("an element-wise mode");
  Descriptor& d = own(CUDNN_BACKEND_OPERATION_POINTWISE_DESCRIPTOR);
  d.set(CUDNN_ATTR_OPERATION_POINTWISE_PW_DESCRIPTOR, mode)
      .set(CUDNN_ATTR_OPERATION_POINTWISE_XDESC, x.at)
      .set(CUDNN_ATTR_OPERATION_POINTWISE_YDESC, out.at);
  if (b.at) d.set(CUDNN_ATTR_OPERATION_POINTWISE_BDESC, b.at);
  if (select.at) d.set(CUDNN_ATTR_OPERATION_POINTWISE_TDESC, select.at);
  operations_.push_back(d.finalize("an element-wise operation").get());
  return out;
}
Tensor CudnnGraph::pointwise(cudnnPointwiseMode_t mode, Tensor x, Tensor out, Tensor b, Tensor select) {
  Descriptor& how = own(CUDNN_BACKEND_POINTWISE_DESCRIPTOR).set(CUDNN_ATTR_POINTWISE_MODE, mode).set(CUDNN_ATTR_POINTWISE_MATH_PREC, CUDNN_DATA_FLOAT);
  return pointwise(how, x, out, b, select);
}
Tensor CudnnGraph::index(std::int64_t axis, Tensor like, Tensor out) {
  Descriptor& how = own(CUDNN_BACKEND_POINTWISE_DESCRIPTOR)
                        .set(CUDNN_ATTR_POINTWISE_MODE, CUDNN_POINTWISE_GEN_INDEX)
                        .set(CUDNN_ATTR_POINTWISE_MATH_PREC, CUDNN_DATA_FLOAT)
                        .set(CUDNN_ATTR_POINTWISE_AXIS, axis);
  return pointwise(how, like, out, {}, {});
}
Tensor CudnnGraph::at_least(Tensor a, Tensor b, Tensor out) {
  Descriptor& how = own(CUDNN_BACKEND_POINTWISE_DESCRIPTOR)
                        .set(CUDNN_ATTR_POINTWISE_MODE, CUDNN_POINTWISE_CMP_GE)
                        .set(CUDNN_ATTR_POINTWISE_MATH_PREC, CUDNN_DATA_BOOLEAN);
  return pointwise(how, a, out, b, {});
}
Tensor CudnnGraph::reduce(cudnnReduceTensorOp_t op, Tensor x, Tensor out) {
  Descriptor& how = own(CUDNN_BACKEND_REDUCTION_DESCRIPTOR)
                        .set(CUDNN_ATTR_REDUCTION_COMP_TYPE, CUDNN_DATA_FLOAT)
                        .set(CUDNN_ATTR_REDUCTION_OPERATOR, op)
                        .finalize("a reduction");
  operations_.push_back(own(CUDNN_BACKEND_OPERATION_REDUCTION_DESCRIPTOR)
                            .set(CUDNN_ATTR_OPERATION_REDUCTION_DESC, how)
                            .set(CUDNN_ATTR_OPERATION_REDUCTION_XDESC, x.at)
                            .set(CUDNN_ATTR_OPERATION_REDUCTION_YDESC, out.at)
                            .finalize("a reduction")
                            .get());
  return out;
}
Tensor CudnnGraph::reshape(Tensor x, Tensor out) {
  operations_.push_back(own(CUDNN_BACKEND_OPERATION_RESHAPE_DESCRIPTOR)
                            .set(CUDNN_ATTR_OPERATION_RESHAPE_XDESC, x.at)
                            .set(CUDNN_ATTR_OPERATION_RESHAPE_YDESC, out.at)
                            .finalize("a reshape")
                            .get());
  return out;
}

const Descriptor& CudnnGraph::finish(const CudnnTarget& target) {
  graph_.emplace(api_, CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR);
  graph_->set(CUDNN_ATTR_OPERATIONGRAPH_OPS, std::span<const cudnnBackendDescriptor_t>(operations_));
  if (target.handle) graph_->set(CUDNN_ATTR_OPERATIONGRAPH_HANDLE, target.handle);
  graph_->finalize("the graph");
  return *graph_;
}

void CudnnPlan::run(cudnnHandle_t handle, std::span<const std::pair<std::int64_t, void*>> tensors, void* workspace) const {
  std::vector<std::int64_t> ids;
  std::vector<void*> addresses;
  for (auto& [id, at] : tensors) {
    ids.push_back(id);
    addresses.push_back(at);
  }
  for (auto& [id, value] : numbers_) {
    ids.push_back(id);
    addresses.push_back(const_cast<float*>(&value));  // on the host, read when the call is made
  }
  Descriptor pack(*api_, CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR);
  pack.set(CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS, std::span<void* const>(addresses), CUDNN_TYPE_VOID_PTR)
      .set(CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS, std::span<const std::int64_t>(ids))
      .set(CUDNN_ATTR_VARIANT_PACK_WORKSPACE, std::span<void* const>(&workspace, 1), CUDNN_TYPE_VOID_PTR)
      .finalize("the operands");
  check(*api_, api_->execute(handle, plan_.get(), pack.get()), "to run");
}

namespace {

CudnnEngine wished(const CudnnApi& api, const Descriptor& operations, const CudnnTarget& target, const CudnnWish& wish) {
  Descriptor engine(api, CUDNN_BACKEND_ENGINE_DESCRIPTOR);
  engine.set(CUDNN_ATTR_ENGINE_OPERATION_GRAPH, operations).set(CUDNN_ATTR_ENGINE_GLOBAL_INDEX, wish.engine);
  if (target.device) engine.set(CUDNN_ATTR_ENGINE_DEVICEPROP, *target.device);
  engine.finalize("an engine");
  std::vector<Descriptor> choices;
  std::vector<cudnnBackendDescriptor_t> handles;
  for (auto [knob, value] : wish.knobs) {
    Descriptor& d = choices.emplace_back(api, CUDNN_BACKEND_KNOB_CHOICE_DESCRIPTOR);
    d.set(CUDNN_ATTR_KNOB_CHOICE_KNOB_TYPE, knob).set(CUDNN_ATTR_KNOB_CHOICE_KNOB_VALUE, value).finalize("a knob");
    handles.push_back(d.get());
  }
  Descriptor config(api, CUDNN_BACKEND_ENGINECFG_DESCRIPTOR);
  config.set(CUDNN_ATTR_ENGINECFG_ENGINE, engine)
      .set(CUDNN_ATTR_ENGINECFG_KNOB_CHOICES, std::span<const cudnnBackendDescriptor_t>(handles))
      .finalize("an engine's setting");
  const std::int64_t workspace = config.integer(CUDNN_ATTR_ENGINECFG_WORKSPACE_SIZE);
  return {std::move(config), workspace};
}

}  // namespace

std::vector<CudnnEngine> suggestions(const CudnnApi& api, CudnnGraph& graph, const CudnnTarget& target, const CudnnWish& wish) {
  constexpr std::size_t kMost = 8;
  const Descriptor& operations = graph.finish(target);
  std::optional<CudnnEngine> first;
  if (wish.engine >= 0) try {
      first = wished(api, operations, target, wish);
    } catch (const CudnnRefusal&) {  // another release, another card: the heuristic knows
    }
  Descriptor heuristic(api, CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR);
  heuristic.set(CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH, operations).set(CUDNN_ATTR_ENGINEHEUR_MODE, CUDNN_HEUR_MODE_A);
  if (target.device) heuristic.set(CUDNN_ATTR_ENGINEHEUR_DEVICEPROP, *target.device);
  heuristic.finalize("the graph: no engine takes it");
  std::vector<CudnnEngine> found;
  std::vector<cudnnBackendDescriptor_t> configs;
  for (std::size_t i = 0; i < kMost; ++i) {
    found.push_back({Descriptor(api, CUDNN_BACKEND_ENGINECFG_DESCRIPTOR), 0});
    configs.push_back(found.back().config.get());
  }
  std::int64_t count = 0;
  check(api, api.get_attribute(heuristic.get(), CUDNN_ATTR_ENGINEHEUR_RESULTS, CUDNN_TYPE_BACKEND_DESCRIPTOR, kMost, &count, configs.data()),
        "to suggest an engine");
  if (count < static_cast<std::int64_t>(kMost)) found.erase(found.begin() + count, found.end());
  for (CudnnEngine& e : found) e.workspace = e.config.integer(CUDNN_ATTR_ENGINECFG_WORKSPACE_SIZE);
  if (first) found.insert(found.begin(), std::move(*first));
  return found;
}

CudnnPlan make_plan(const CudnnApi& api, const CudnnGraph& graph, const CudnnTarget& target, const Descriptor& engine, std::int64_t workspace) {
  Descriptor plan(api, CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR);
  plan.set(CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG, engine);
  if (target.handle) plan.set(CUDNN_ATTR_EXECUTION_PLAN_HANDLE, target.handle);
  if (target.device) plan.set(CUDNN_ATTR_EXECUTION_PLAN_DEVICEPROP, *target.device);
  plan.finalize("a plan");
  if (plan.integer(CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE) > workspace) throw CudnnRefusal("cuDNN's plan takes more workspace than its engine said");
  return {api, std::move(plan), workspace, graph.numbers()};
}

std::optional<CudnnPlan> fitting_plan(const CudnnApi& api, CudnnGraph& graph, const CudnnTarget& target, std::int64_t limit, std::int64_t& least,
                                      const CudnnWish& wish) {
  least = std::numeric_limits<std::int64_t>::max();
  std::string refusal;
  for (const CudnnEngine& e : suggestions(api, graph, target, wish)) try {
      least = std::min(least, e.workspace);
      if (e.workspace <= limit) return make_plan(api, graph, target, e.config, e.workspace);
    } catch (const CudnnRefusal& r) {
      refusal = r.what();
    }
  if (!refusal.empty()) throw CudnnRefusal(refusal);
  if (least == std::numeric_limits<std::int64_t>::max()) throw CudnnRefusal("cuDNN suggests no engine");
  return std::nullopt;
}

}  // namespace llmplan::cuda
