#pragma once

#include "lockstep/engine/tensor/tensor.h"

namespace lockstep {

struct BatchNormOptions {
  bool training = false;  // normalise with the batch's statistics and update the running ones
  double momentum = 0.1;  // running = (1 - momentum) running + momentum batch
  double eps = 1e-5;
};

// Batch normalisation over every dimension but the second of x (N, C, ...). weight, bias,
// running_mean, running_var are (C) or undefined; the running variance is updated with the unbiased
// one. Without training the running statistics are required.
// x in bfloat16 or float16 is computed in float32, which running_mean and running_var then have.
Tensor batch_norm(const Tensor& x, const Tensor& running_mean, const Tensor& running_var,
                  const Tensor& weight, const Tensor& bias, const BatchNormOptions& options);

}  // namespace lockstep
