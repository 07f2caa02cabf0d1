#pragma once

#include "lockstep/engine/backend.h"
#include "lockstep/engine/tensor/tensor.h"

namespace lockstep {

// Over (N, C, H, W) with floor rounding; the stride defaults to the kernel.
Tensor max_pool2d(const Tensor& x, int64_t kernel);
Tensor max_pool2d(const Tensor& x, const Pool2dParams& params);
Tensor avg_pool2d(const Tensor& x, int64_t kernel);
Tensor avg_pool2d(const Tensor& x, const Pool2dParams& params);

}  // namespace lockstep
