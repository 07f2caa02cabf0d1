#pragma once

#include <cuda_runtime.h>

#include "lockstep/engine/tensor/tensor.h"

// Batch normalisation, as backend.h says; float32 and float64. Sums are in double.
namespace lockstep::cuda {

// Throws ValueError on an empty batch.
void batch_statistics(cudaStream_t stream, const Tensor& mean, const Tensor& var, const Tensor& x);
void batch_norm(cudaStream_t stream, const Tensor& y, const Tensor& x, const Tensor& mean,
                const Tensor& var, const Tensor& weight, const Tensor& bias, double eps);
void batch_norm_gradient(cudaStream_t stream, const Tensor& gx, const Tensor& gweight,
                         const Tensor& gbias, const Tensor& gy, const Tensor& x, const Tensor& mean,
                         const Tensor& var, const Tensor& weight, double eps, bool batch);

}  // namespace lockstep::cuda
