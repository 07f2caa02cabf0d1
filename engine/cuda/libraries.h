#pragma once

#include <cuda_runtime.h>

#include "lockstep/engine/backend.h"
#include "lockstep/engine/plugin_table.h"

// What NVIDIA's libraries do for the CUDA backend. In the plugin that the tests run without a GPU,
// plain kernels stand in (tests/cuda/emulation/).
namespace lockstep::cuda {

// Floating products by cublasLt.
void gemm_by_library(cudaStream_t stream, const GemmCall& call);

// Their versions.
Facts library_facts();

}  // namespace lockstep::cuda
