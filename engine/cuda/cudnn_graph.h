#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "lockstep/engine/cuda/cudnn_library.h"
#include "lockstep/engine/tensor/dtype.h"

// cuDNN's graphs: descriptors that describe operations on tensors, and plans that run them.
namespace lockstep::cuda {

// cuDNN's name for a dtype that it computes with: float32 and the two of 16 bits.
std::optional<cudnnDataType_t> type_of(DType dtype);

// Everything in cuDNN's graphs is one of these: made of attributes, then finalized.
class CudnnDescriptor {
 public:
  explicit CudnnDescriptor(cudnnBackendDescriptorType_t type);
  ~CudnnDescriptor();
  CudnnDescriptor(CudnnDescriptor&& other) noexcept
      : descriptor_(std::exchange(other.descriptor_, nullptr)) {}
  CudnnDescriptor& operator=(CudnnDescriptor&& other) noexcept {
    std::swap(descriptor_, other.descriptor_);
    return *this;
  }

  CudnnDescriptor& set(cudnnBackendAttributeName_t name, cudnnBackendAttributeType_t type,
                       int64_t count, const void* values);
  template <typename T>
  CudnnDescriptor& set(cudnnBackendAttributeName_t name, cudnnBackendAttributeType_t type,
                       const T& value) {
    return set(name, type, 1, &value);
  }
  CudnnDescriptor& set(cudnnBackendAttributeName_t name, std::span<const int64_t> values) {
    return set(name, CUDNN_TYPE_INT64, static_cast<int64_t>(values.size()), values.data());
  }
  CudnnDescriptor& set(cudnnBackendAttributeName_t name, const CudnnDescriptor& value) {
    return set(name, CUDNN_TYPE_BACKEND_DESCRIPTOR, value.descriptor_);
  }
  CudnnDescriptor& set(cudnnBackendAttributeName_t name,
                       const std::vector<const CudnnDescriptor*>& values);

  // False where cuDNN cannot do what is described; throws Error where cuDNN itself is broken.
  bool try_finalize();
  // Throws Error.
  CudnnDescriptor& finalize();

  int64_t get_int64(cudnnBackendAttributeName_t name) const;
  // At most `most` values.
  template <typename T>
  std::vector<T> get_all(cudnnBackendAttributeName_t name, cudnnBackendAttributeType_t type,
                         int64_t most) const {
    std::vector<T> values(static_cast<size_t>(most));
    values.resize(get(name, type, most, values.data()));
    return values;
  }
  // The descriptor within this one.
  CudnnDescriptor get_descriptor(cudnnBackendAttributeName_t name,
                                 cudnnBackendDescriptorType_t type) const;
  std::vector<CudnnDescriptor> get_descriptors(cudnnBackendAttributeName_t name,
                                               cudnnBackendDescriptorType_t type,
                                               int64_t most) const;

  cudnnBackendDescriptor_t raw() const { return descriptor_; }

 private:
  size_t get(cudnnBackendAttributeName_t name, cudnnBackendAttributeType_t type, int64_t most,
             void* values) const;

  cudnnBackendDescriptor_t descriptor_ = nullptr;
};

// What a plan is made for: the device of a handle, or one that is only described (it then runs
// nowhere, but cuDNN says what it would do there).
struct CudnnTarget {
  cudnnHandle_t handle = nullptr;
  const CudnnDescriptor* properties = nullptr;  // CUDNN_BACKEND_DEVICEPROP_DESCRIPTOR
};

// How a graph is computed.
class CudnnPlan {
 public:
  using Notes = std::vector<cudnnBackendNumericalNote_t>;

  // `plan` is finalized, of `config`; the notes are its engine's.
  CudnnPlan(CudnnDescriptor plan, CudnnDescriptor config, Notes notes);

  size_t workspace_bytes() const { return workspace_bytes_; }
  const Notes& notes() const { return notes_; }
  // Issues the work to the handle's stream. `ids` are those of the graph's tensors, `data` their
  // memory in the same order.
  void execute(cudnnHandle_t handle, std::span<const int64_t> ids, std::span<void* const> data,
               void* workspace) const;

 private:
  CudnnDescriptor config_, plan_;
  Notes notes_;
  size_t workspace_bytes_;
};

// The first of the plans that cuDNN's heuristics suggest, best first, whose numerical notes are all
// acceptable and whose workspace is at most that large. None where there is no such plan.
std::optional<CudnnPlan> choose_plan(
    const std::vector<const CudnnDescriptor*>& operations, const CudnnTarget& target,
    const std::function<bool(cudnnBackendNumericalNote_t)>& acceptable, size_t workspace_bytes);

}  // namespace lockstep::cuda
