#pragma once

#include <string>

#include <cuda_runtime.h>

#include "lockstep/engine/backend.h"
#include "lockstep/engine/plugin_table.h"

// What NVIDIA's libraries do for the CUDA backend. In the plugin that the tests run without a GPU,
// plain kernels stand in (tests/cuda/emulation/).
namespace lockstep::cuda {

// Floating products by cublasLt.
void gemm_by_library(cudaStream_t stream, const GemmCall& call);

// Convolutions as backend.h says, by cuDNN; or false, and nothing done, where it has none that is
// deterministic: float64, and where it is missing.
bool conv2d_by_library(cudaStream_t stream, const Tensor& y, const Tensor& x, const Tensor& w,
                       const Tensor& bias, const Conv2dParams& params);
bool conv2d_input_gradient_by_library(cudaStream_t stream, const Tensor& gx, const Tensor& gy,
                                      const Tensor& w, const Conv2dParams& params);
bool conv2d_weight_gradient_by_library(cudaStream_t stream, const Tensor& gw, const Tensor& gbias,
                                       const Tensor& gy, const Tensor& x,
                                       const Conv2dParams& params);

// cuDNN's version, or what its absence means.
std::string convolution_fact();

// Their versions.
Facts library_facts();

}  // namespace lockstep::cuda
