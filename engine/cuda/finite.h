#pragma once

#include <span>

#include <cuda_runtime.h>

#include "lockstep/engine/tensor/tensor.h"

namespace lockstep::cuda {

// GradientKernels::flag_non_finite().
void flag_non_finite(cudaStream_t stream, const Tensor& flags, std::span<const Tensor> tensors);

}  // namespace lockstep::cuda
