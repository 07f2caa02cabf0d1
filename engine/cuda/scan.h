#pragma once

#include <cuda_runtime.h>

#include "lockstep/engine/tensor/tensor.h"

namespace lockstep::cuda {

// Running sums along `dim`, from its end if `reverse`; contiguous. Floating numbers are added up in
// double, in an order that depends on the shape only. int64 and floating.
void cumsum_along(cudaStream_t stream, const Tensor& out, const Tensor& in, int dim, bool reverse);

}  // namespace lockstep::cuda
