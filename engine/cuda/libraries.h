#pragma once

#include <string>

#include <cuda_runtime.h>

#include "lockstep/engine/backend.h"
#include "lockstep/engine/fused_attention.h"
#include "lockstep/engine/plugin_table.h"

// What NVIDIA's libraries do for the CUDA backend. In the plugin that the tests run without a GPU,
// plain kernels stand in (tests/cuda/emulation/).
namespace lockstep::cuda {

// Floating products by cublasLt.
void gemm_by_library(cudaStream_t stream, const GemmCall& call);
// With an epilogue, batch 1; or false, and nothing done, where there is none that is deterministic.
// Decided once for all calls of the same shapes, strides and alignment.
bool gemm_with_epilogue_by_library(cudaStream_t stream, const GemmCall& call,
                                   const GemmEpilogue& epilogue);

// Convolutions as backend.h says, by cuDNN; or false, and nothing done, where it has none that is
// deterministic: float64, and where it is missing.
bool conv2d_by_library(cudaStream_t stream, const Tensor& y, const Tensor& x, const Tensor& w,
                       const Tensor& bias, const Conv2dParams& params);
bool conv2d_input_gradient_by_library(cudaStream_t stream, const Tensor& gx, const Tensor& gy,
                                      const Tensor& w, const Conv2dParams& params);
bool conv2d_weight_gradient_by_library(cudaStream_t stream, const Tensor& gw, const Tensor& gbias,
                                       const Tensor& gy, const Tensor& x,
                                       const Conv2dParams& params);

// Attention as fused_attention.h says, by cuDNN, where it has plans that are deterministic:
// bfloat16 and float16. The dropout's random numbers are cuDNN's Philox, seeded by what the key
// draws.
bool can_attend_by_library(const AttentionCall& call, bool gradient);
void attention_by_library(cudaStream_t stream, const Tensor& y, const Tensor& stats,
                          const AttentionCall& call);
void attention_gradient_by_library(cudaStream_t stream, const Tensor& gq, const Tensor& gk,
                                   const Tensor& gv, const Tensor& gy, const Tensor& y,
                                   const Tensor& stats, const AttentionCall& call);
void attention_mask_by_library(cudaStream_t stream, const Tensor& mask, const AttentionCall& call);

// cuDNN's version, or what its absence means.
std::string convolution_fact();

// Their versions.
Facts library_facts();

}  // namespace lockstep::cuda
