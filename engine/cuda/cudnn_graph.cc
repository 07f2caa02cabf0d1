#include "lockstep/engine/cuda/cudnn_graph.h"

#include <algorithm>

#include "lockstep/engine/tensor/check.h"

namespace lockstep::cuda {
namespace {

// What cuDNN says of operations, engines and plans that it does not have. (What it calls an
// internal error is, for example, a kernel that did not compile: another engine may do.)
bool is_refusal(cudnnStatus_t status) {
  const int category = CUDNN_STATUS_CATEGORY(status);
  return category == CUDNN_STATUS_NOT_SUPPORTED || category == CUDNN_STATUS_BAD_PARAM ||
         category == CUDNN_STATUS_INTERNAL_ERROR;
}

}  // namespace

std::optional<cudnnDataType_t> type_of(DType dtype) {
  switch (dtype) {
    case DType::kFloat32:
      return CUDNN_DATA_FLOAT;
    case DType::kBFloat16:
      return CUDNN_DATA_BFLOAT16;
    case DType::kFloat16:
      return CUDNN_DATA_HALF;
    default:
      return std::nullopt;
  }
}

CudnnDescriptor::CudnnDescriptor(cudnnBackendDescriptorType_t type) {
  check_cudnn(cudnn().create_descriptor(type, &descriptor_), "create a descriptor");
}

CudnnDescriptor::~CudnnDescriptor() {
  if (descriptor_) cudnn().destroy_descriptor(descriptor_);
}

CudnnDescriptor& CudnnDescriptor::set(cudnnBackendAttributeName_t name,
                                      cudnnBackendAttributeType_t type, int64_t count,
                                      const void* values) {
  check_cudnn(cudnn().set_attribute(descriptor_, name, type, count, values), "describe");
  return *this;
}

CudnnDescriptor& CudnnDescriptor::set(cudnnBackendAttributeName_t name,
                                      const std::vector<const CudnnDescriptor*>& values) {
  std::vector<cudnnBackendDescriptor_t> raw;
  raw.reserve(values.size());
  for (const CudnnDescriptor* value : values) raw.push_back(value->descriptor_);
  return set(name, CUDNN_TYPE_BACKEND_DESCRIPTOR, static_cast<int64_t>(raw.size()), raw.data());
}

bool CudnnDescriptor::try_finalize() {
  const cudnnStatus_t status = cudnn().finalize(descriptor_);
  if (is_refusal(status)) return false;
  check_cudnn(status, "finalize");
  return true;
}

CudnnDescriptor& CudnnDescriptor::finalize() {
  check_cudnn(cudnn().finalize(descriptor_), "finalize");
  return *this;
}

size_t CudnnDescriptor::get(cudnnBackendAttributeName_t name, cudnnBackendAttributeType_t type,
                            int64_t most, void* values) const {
  int64_t count = 0;
  check_cudnn(cudnn().get_attribute(descriptor_, name, type, most, &count, values), "ask");
  return static_cast<size_t>(std::min(count, most));
}

int64_t CudnnDescriptor::get_int64(cudnnBackendAttributeName_t name) const {
  int64_t value = 0;
  get(name, CUDNN_TYPE_INT64, 1, &value);
  return value;
}

CudnnDescriptor CudnnDescriptor::get_descriptor(cudnnBackendAttributeName_t name,
                                                cudnnBackendDescriptorType_t type) const {
  CudnnDescriptor inner(type);
  get(name, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &inner.descriptor_);
  return inner;
}

std::vector<CudnnDescriptor> CudnnDescriptor::get_descriptors(cudnnBackendAttributeName_t name,
                                                              cudnnBackendDescriptorType_t type,
                                                              int64_t most) const {
  std::vector<CudnnDescriptor> all;  // cuDNN fills in descriptors that the caller has made
  std::vector<cudnnBackendDescriptor_t> raw;
  for (int64_t i = 0; i < most; ++i) raw.push_back(all.emplace_back(type).descriptor_);
  const size_t count = get(name, CUDNN_TYPE_BACKEND_DESCRIPTOR, most, raw.data());
  all.erase(all.begin() + static_cast<int64_t>(count), all.end());
  return all;
}

CudnnPlan::CudnnPlan(CudnnDescriptor plan, CudnnDescriptor config, Notes notes)
    : config_(std::move(config)),
      plan_(std::move(plan)),
      notes_(std::move(notes)),
      workspace_bytes_(
          static_cast<size_t>(plan_.get_int64(CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE))) {}

void CudnnPlan::execute(cudnnHandle_t handle, std::span<const int64_t> ids,
                        std::span<void* const> data, void* workspace) const {
  CudnnDescriptor pack(CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR);
  pack.set(CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS, ids)
      .set(CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS, CUDNN_TYPE_VOID_PTR,
           static_cast<int64_t>(data.size()), data.data())
      .set(CUDNN_ATTR_VARIANT_PACK_WORKSPACE, CUDNN_TYPE_VOID_PTR, workspace)
      .finalize();
  check_cudnn(cudnn().execute(handle, plan_.raw(), pack.raw()), "execute");
}

namespace {

using Acceptable = std::function<bool(cudnnBackendNumericalNote_t)>;

// The plan of one suggestion, if it will do.
std::optional<CudnnPlan> plan_of(CudnnDescriptor config, const CudnnTarget& target,
                                 const Acceptable& acceptable, size_t workspace_bytes) {
  const CudnnDescriptor engine =
      config.get_descriptor(CUDNN_ATTR_ENGINECFG_ENGINE, CUDNN_BACKEND_ENGINE_DESCRIPTOR);
  CudnnPlan::Notes notes = engine.get_all<cudnnBackendNumericalNote_t>(
      CUDNN_ATTR_ENGINE_NUMERICAL_NOTE, CUDNN_TYPE_NUMERICAL_NOTE, CUDNN_NUMERICAL_NOTE_TYPE_COUNT);
  if (!std::all_of(notes.begin(), notes.end(), acceptable)) return std::nullopt;
  CudnnDescriptor plan(CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR);
  plan.set(CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG, config);
  if (target.handle) {
    plan.set(CUDNN_ATTR_EXECUTION_PLAN_HANDLE, CUDNN_TYPE_HANDLE, target.handle);
  } else {
    plan.set(CUDNN_ATTR_EXECUTION_PLAN_DEVICEPROP, *target.properties);
  }
  if (!plan.try_finalize()) return std::nullopt;
  CudnnPlan result(std::move(plan), std::move(config), std::move(notes));
  if (result.workspace_bytes() > workspace_bytes) return std::nullopt;
  return result;
}

}  // namespace

std::optional<CudnnPlan> choose_plan(const std::vector<const CudnnDescriptor*>& operations,
                                     const CudnnTarget& target, const Acceptable& acceptable,
                                     size_t workspace_bytes) {
  CudnnDescriptor graph(CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR);
  graph.set(CUDNN_ATTR_OPERATIONGRAPH_OPS, operations);
  if (target.handle) {
    graph.set(CUDNN_ATTR_OPERATIONGRAPH_HANDLE, CUDNN_TYPE_HANDLE, target.handle);
  }
  if (!graph.try_finalize()) return std::nullopt;
  for (const cudnnBackendHeurMode_t mode : {CUDNN_HEUR_MODE_A, CUDNN_HEUR_MODE_FALLBACK}) {
    CudnnDescriptor heuristics(CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR);
    heuristics.set(CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH, graph)
        .set(CUDNN_ATTR_ENGINEHEUR_MODE, CUDNN_TYPE_HEUR_MODE, mode);
    if (!target.handle) heuristics.set(CUDNN_ATTR_ENGINEHEUR_DEVICEPROP, *target.properties);
    if (!heuristics.try_finalize()) continue;
    constexpr int64_t kMost = 64;
    for (CudnnDescriptor& config : heuristics.get_descriptors(
             CUDNN_ATTR_ENGINEHEUR_RESULTS, CUDNN_BACKEND_ENGINECFG_DESCRIPTOR, kMost)) {
      if (auto plan = plan_of(std::move(config), target, acceptable, workspace_bytes)) return plan;
    }
  }
  return std::nullopt;
}

}  // namespace lockstep::cuda
