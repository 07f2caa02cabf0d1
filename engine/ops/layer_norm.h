#pragma once

#include "lockstep/engine/tensor/tensor.h"

namespace lockstep {

// Mean 0 and variance 1 (biased, plus eps) over the last dimensions, whose sizes are `shape`, then
// times weight plus bias, both of that shape or undefined.
Tensor layer_norm(const Tensor& x, const Dims& shape, const Tensor& weight = {},
                  const Tensor& bias = {}, double eps = 1e-5);
// The same over each of `groups` groups of neighbouring channels of x (N, C, ...) and all that
// follows; weight and bias are (C) or undefined.
Tensor group_norm(const Tensor& x, int64_t groups, const Tensor& weight = {},
                  const Tensor& bias = {}, double eps = 1e-5);
// x / sqrt(mean(x^2) + eps) over the last dimensions, then times weight; eps < 0: the dtype's.
Tensor rms_norm(const Tensor& x, const Dims& shape, const Tensor& weight = {}, double eps = -1);

}  // namespace lockstep
