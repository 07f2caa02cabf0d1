#pragma once

#include "lockstep/engine/tensor/tensor.h"

namespace lockstep {

// The slices of `x` along `dim` that the int64 tensor `index` (1-d) names, in its order.
Tensor index_select(const Tensor& x, int64_t dim, const Tensor& index);

}  // namespace lockstep
