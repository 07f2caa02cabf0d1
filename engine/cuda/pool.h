#pragma once

#include <cuda_runtime.h>

#include "lockstep/engine/backend.h"

// Pooling as backend.h says, contiguous or channels-last. Gradients are gathered: each input adds
// up the windows over it, in their order.
namespace lockstep::cuda {

void max_pool2d(cudaStream_t stream, const Tensor& y, const Tensor& indices, const Tensor& x,
                const Pool2dParams& params);
void max_pool2d_gradient(cudaStream_t stream, const Tensor& gx, const Tensor& gy,
                         const Tensor& indices, const Pool2dParams& params);
void avg_pool2d(cudaStream_t stream, const Tensor& y, const Tensor& x, const Pool2dParams& params);
void avg_pool2d_gradient(cudaStream_t stream, const Tensor& gx, const Tensor& gy,
                         const Pool2dParams& params);

}  // namespace lockstep::cuda
