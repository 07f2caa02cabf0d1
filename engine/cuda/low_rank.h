#pragma once

#include <span>

#include <cuda_runtime.h>

#include "lockstep/engine/gradient_kernels.h"

// PowerSGD's arithmetic: gradient_kernels.h says what.
namespace lockstep::cuda {

void orthonormalize(cudaStream_t stream, std::span<const VectorSet> sets);
void reconstruct(cudaStream_t stream, const Factored& matrix, double share, const Tensor& count);

}  // namespace lockstep::cuda
