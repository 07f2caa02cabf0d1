#pragma once

#include <cuda_runtime.h>

#include "lockstep/engine/tensor/tensor.h"

// The loss of logits and classes: backend.h says what.
namespace lockstep::cuda {

void cross_entropy(cudaStream_t stream, const Tensor& losses, const Tensor& log_sums,
                   const Tensor& x, const Tensor& target, const Tensor& weight,
                   int64_t ignore_index);
void cross_entropy_gradient(cudaStream_t stream, const Tensor& gx, const Tensor& gy,
                            const Tensor& x, const Tensor& log_sums, const Tensor& target,
                            const Tensor& weight, int64_t ignore_index);

}  // namespace lockstep::cuda
