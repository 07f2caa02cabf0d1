#include "lockstep/engine/cuda/cudnn_device.h"

#include <memory>
#include <vector>

#include "lockstep/engine/tensor/tensor_impl.h"

namespace lockstep::cuda {

CudnnDevice::CudnnDevice(Device device) : device_(device) {
  check_cudnn(cudnn().create(&handle_), "cudnnCreate");
}

CudnnDevice& CudnnDevice::of(Device device) {
  static auto* devices = new std::map<int, std::unique_ptr<CudnnDevice>>;  // outlives all tensors
  static std::mutex mutex;
  const std::lock_guard lock(mutex);
  auto& found = (*devices)[device.index];
  if (!found) found.reset(new CudnnDevice(device));
  return *found;
}

void CudnnDevice::execute(cudaStream_t stream, const CudnnPlan& plan,
                          std::span<const CudnnArgument> arguments) {
  const std::lock_guard lock(mutex_);
  if (stream != stream_) {
    check_cudnn(cudnn().set_stream(handle_, stream), "cudnnSetStream");
    stream_ = stream;
  }
  // Freed when it goes, and used again by what is issued later to the same stream.
  const Tensor workspace =
      empty_dense({static_cast<int64_t>(plan.workspace_bytes())}, DType::kUInt8, device_);
  std::vector<int64_t> ids;
  std::vector<void*> data;
  for (const CudnnArgument& argument : arguments) {
    ids.push_back(argument.id);
    data.push_back(argument.data);
  }
  plan.execute(handle_, ids, data, workspace.data_ptr());
}

}  // namespace lockstep::cuda
