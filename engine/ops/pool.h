#pragma once

#include "lockstep/engine/backend.h"
#include "lockstep/engine/tensor/tensor.h"

namespace lockstep {

// Over (N, C, H, W) or (C, H, W), with floor rounding; the stride defaults to the kernel.
Tensor max_pool2d(const Tensor& x, int64_t kernel);
Tensor max_pool2d(const Tensor& x, const Pool2dParams& params);
Tensor avg_pool2d(const Tensor& x, int64_t kernel);
Tensor avg_pool2d(const Tensor& x, const Pool2dParams& params);

// Windows as even as they come: output i covers floor(i H / H') to ceil((i + 1) H / H').
Tensor adaptive_avg_pool2d(const Tensor& x, int64_t height, int64_t width);
Tensor adaptive_max_pool2d(const Tensor& x, int64_t height, int64_t width);

}  // namespace lockstep
