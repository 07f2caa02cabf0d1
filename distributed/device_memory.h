#pragma once

#include "lockstep/distributed/process_group.h"
#include "lockstep/engine/tensor/factory.h"

namespace lockstep::distributed {

// Group memory of a group that needs nothing special: the device's own, zeroed.
class DeviceMemory final : public Memory {
 public:
  DeviceMemory(size_t bytes, Device device)
      : bytes_(zeros({static_cast<int64_t>(bytes)}, {DType::kUInt8, device})) {}
  void* data() const override { return bytes_.data_ptr(); }
  size_t bytes() const override { return static_cast<size_t>(bytes_.numel()); }

 private:
  Tensor bytes_;
};

}  // namespace lockstep::distributed
