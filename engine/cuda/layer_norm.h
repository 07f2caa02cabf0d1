#pragma once

#include <cuda_runtime.h>

#include "lockstep/engine/tensor/tensor.h"

// Layer norm and RMS norm of the rows of matrices: backend.h says what.
namespace lockstep::cuda {

void layer_norm(cudaStream_t stream, const Tensor& y, const Tensor& mean, const Tensor& rstd,
                const Tensor& x, const Tensor& weight, const Tensor& bias, double eps);
void layer_norm_gradient(cudaStream_t stream, const Tensor& gx, const Tensor& gweight,
                         const Tensor& gbias, const Tensor& gy, const Tensor& x, const Tensor& mean,
                         const Tensor& rstd, const Tensor& weight);

}  // namespace lockstep::cuda
