#pragma once

#include <cuda_runtime.h>

#include "lockstep/engine/backend.h"

// Convolutions by plain kernels, as backend.h says: any stride, padding, dilation and groups,
// contiguous or channels-last, every floating dtype; for what NVIDIA's library does not do.
namespace lockstep::cuda {

void conv2d_by_kernel(cudaStream_t stream, const Tensor& y, const Tensor& x, const Tensor& w,
                      const Tensor& bias, const Conv2dParams& params);
void conv2d_input_gradient_by_kernel(cudaStream_t stream, const Tensor& gx, const Tensor& gy,
                                     const Tensor& w, const Conv2dParams& params);
void conv2d_weight_gradient_by_kernel(cudaStream_t stream, const Tensor& gw, const Tensor& gbias,
                                      const Tensor& gy, const Tensor& x,
                                      const Conv2dParams& params);

}  // namespace lockstep::cuda
