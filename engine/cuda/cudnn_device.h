#pragma once

#include <map>
#include <mutex>
#include <optional>
#include <span>
#include <utility>

#include <cuda_runtime.h>

#include "lockstep/engine/cuda/cudnn_graph.h"
#include "lockstep/engine/tensor/tensor.h"

// cuDNN on a device that is there: its handle, and the plans made so far.
namespace lockstep::cuda {

// A tensor of a plan and its memory; of a number of the host, where it is.
struct CudnnArgument {
  int64_t id;
  void* data;
};

// One device's handle. Any thread may call.
class CudnnDevice {
 public:
  // Throws Error where there is no cuDNN.
  static CudnnDevice& of(Device device);

  cudnnHandle_t handle() const { return handle_; }
  // Issues the work to `stream`, with a workspace of its own.
  void execute(cudaStream_t stream, const CudnnPlan& plan,
               std::span<const CudnnArgument> arguments);

 private:
  explicit CudnnDevice(Device device);

  const Device device_;
  std::mutex mutex_;
  cudnnHandle_t handle_ = nullptr;  // kept as long as the process
  cudaStream_t stream_ = nullptr;   // the handle's
};

// A plan for every problem seen, or that there is none. Any thread may call.
template <typename Problem>
class CudnnPlans {
 public:
  using Planner = std::optional<CudnnPlan> (*)(const Problem&, const CudnnTarget&);
  explicit CudnnPlans(Planner planner) : planner_(planner) {}

  // Null where there is none; else it lives as long as this.
  const CudnnPlan* find(Device device, const Problem& problem) {
    const std::lock_guard lock(mutex_);
    const auto key = std::pair(device.index, problem);
    auto found = plans_.find(key);
    if (found == plans_.end()) {
      const CudnnTarget target{.handle = CudnnDevice::of(device).handle()};
      found = plans_.emplace(key, planner_(problem, target)).first;
    }
    return found->second ? &*found->second : nullptr;
  }

 private:
  const Planner planner_;
  std::mutex mutex_;
  std::map<std::pair<int16_t, Problem>, std::optional<CudnnPlan>> plans_;
};

}  // namespace lockstep::cuda
