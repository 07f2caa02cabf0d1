#pragma once

#include <string_view>

#include "lockstep/engine/tensor/tensor.h"

// Internal: for ops of several steps that compute 16-bit floats in float32 and round once.
namespace lockstep {

inline bool is_half(DType dtype) { return is_floating(dtype) && size_of(dtype) == 2; }

// What has 16 bits as float32; anything else, undefined too, as it is.
inline Tensor widened(const Tensor& x) {
  return x.defined() && is_half(x.dtype()) ? x.to(DType::kFloat32) : x;
}

// y in `dtype`; `name`, a literal, is the op's in the graph.
Tensor narrowed(const Tensor& y, DType dtype, std::string_view name);

}  // namespace lockstep
