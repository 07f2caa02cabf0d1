#pragma once

#include "lockstep/engine/ops/pointwise.h"
#include "lockstep/engine/ops/product.h"
#include "lockstep/engine/tensor/factory.h"

namespace lockstep {

// 0 to count - 1 in int64, made where they are wanted: nothing is copied from the host.
inline Tensor positions(int64_t count, Device device) {
  if (device.is_cpu()) return arange(count);
  return sub(cumsum(ones({count}, {DType::kInt64, device}), 0), 1);
}

}  // namespace lockstep
