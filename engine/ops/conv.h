#pragma once

#include "lockstep/engine/backend.h"
#include "lockstep/engine/tensor/tensor.h"

namespace lockstep {

// x may lack the N of each of these, and then the result does.

// Cross-correlation. x (N, C, H, W), weight (O, C / groups, KH, KW), bias (O) or undefined; returns
// (N, O, H', W') with H' = (H + 2 padding - dilation (KH - 1) - 1) / stride + 1.
Tensor conv2d(const Tensor& x, const Tensor& weight, const Tensor& bias = {},
              const Conv2dParams& params = {});

struct Conv1dParams {
  int64_t stride = 1, padding = 0, dilation = 1, groups = 1;
};
// x (N, C, L), weight (O, C / groups, K), bias (O) or undefined; returns (N, O, L').
Tensor conv1d(const Tensor& x, const Tensor& weight, const Tensor& bias = {},
              const Conv1dParams& params = {});

struct ConvTranspose2dParams {
  int64_t stride[2] = {1, 1};
  int64_t padding[2] = {0, 0};
  int64_t output_padding[2] = {0, 0};  // added to one side of the output
  int64_t dilation[2] = {1, 1};
  int64_t groups = 1;
};
// x (N, C, H, W), weight (C, O / groups, KH, KW), bias (O) or undefined; returns (N, O, H', W')
// with H' = (H - 1) stride - 2 padding + dilation (KH - 1) + output_padding + 1.
Tensor conv_transpose2d(const Tensor& x, const Tensor& weight, const Tensor& bias = {},
                        const ConvTranspose2dParams& params = {});

}  // namespace lockstep
