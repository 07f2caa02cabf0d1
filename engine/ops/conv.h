#pragma once

#include "lockstep/engine/backend.h"
#include "lockstep/engine/tensor/tensor.h"

namespace lockstep {

// Cross-correlation. x (N, C, H, W), weight (O, C / groups, KH, KW), bias (O) or undefined; returns
// (N, O, H', W') with H' = (H + 2 padding - dilation (KH - 1) - 1) / stride + 1.
Tensor conv2d(const Tensor& x, const Tensor& weight, const Tensor& bias = {},
              const Conv2dParams& params = {});

}  // namespace lockstep
