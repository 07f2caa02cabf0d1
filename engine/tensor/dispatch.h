#pragma once

#include <cstdint>

#include "lockstep/engine/tensor/dtype.h"

namespace lockstep {

// Calls fn with a value of the C++ type of `dtype`.
template <typename F>
void dispatch_all(DType dtype, F&& fn) {
  switch (dtype) {
    case DType::kFloat32:
      return fn(float{});
    case DType::kFloat64:
      return fn(double{});
    case DType::kBFloat16:
      return fn(BFloat16{});
    case DType::kFloat16:
      return fn(Float16{});
    case DType::kInt64:
      return fn(int64_t{});
    case DType::kInt32:
      return fn(int32_t{});
    case DType::kUInt8:
      return fn(uint8_t{});
    case DType::kBool:
      return fn(bool{});
  }
}

}  // namespace lockstep
