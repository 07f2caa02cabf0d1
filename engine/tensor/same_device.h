#pragma once

#include "lockstep/engine/tensor/tensor.h"

namespace lockstep {

// Throws ValueError with PyTorch's text.
[[noreturn]] void fail_on_devices(const char* op, Device a, Device b);

// Checks that the tensors which are defined are on `device`. Backends ask before they follow a
// pointer: one of another device's would end the process.
template <typename... Tensors>
void check_on_device(const char* op, Device device, const Tensors&... tensors) {
  const auto look = [&](const Tensor& t) {
    if (t.defined() && t.device() != device) [[unlikely]] {
      fail_on_devices(op, device, t.device());
    }
  };
  (look(tensors), ...);
}

}  // namespace lockstep
