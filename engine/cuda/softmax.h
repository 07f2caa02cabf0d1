#pragma once

#include <cuda_runtime.h>

#include "lockstep/engine/tensor/tensor.h"

// Softmax and its logarithm over the last dimension of contiguous tensors: backend.h says what.
namespace lockstep::cuda {

void log_softmax(cudaStream_t stream, const Tensor& y, const Tensor& x);
void log_softmax_gradient(cudaStream_t stream, const Tensor& gx, const Tensor& gy, const Tensor& y);
void softmax(cudaStream_t stream, const Tensor& y, const Tensor& x);
void softmax_gradient(cudaStream_t stream, const Tensor& gx, const Tensor& gy, const Tensor& y);

}  // namespace lockstep::cuda
