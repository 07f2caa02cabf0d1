#pragma once

#include <cuda_runtime.h>

#include "lockstep/engine/backend.h"

namespace lockstep::cuda {

// A product of matrices by a plain kernel: integers, which wrap as the CPU's do, and what the
// libraries do not take. 16-bit floats are added up in float and rounded once.
void gemm_by_kernel(cudaStream_t stream, const GemmCall& call);

}  // namespace lockstep::cuda
