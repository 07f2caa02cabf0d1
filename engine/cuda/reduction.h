#pragma once

#include <cuda_runtime.h>

#include "lockstep/engine/tensor/tensor.h"

// Reductions of the CUDA backend.
namespace lockstep::cuda {

// `out` is dense and has size 1 in every reduced dimension, `in` has any strides. Floating numbers
// are added up in double, in an order that depends on shape and strides only. int64 and floating.
void sum_dims(cudaStream_t stream, const Tensor& out, const Tensor& in);

// Values and int64 indices, dense, of size 1 along `dim`; `in` has any strides and is not empty
// along it. The first of equals wins, and the first NaN over all.
void extreme_along(cudaStream_t stream, const Tensor& values, const Tensor& indices,
                   const Tensor& in, int dim, bool largest);

}  // namespace lockstep::cuda
