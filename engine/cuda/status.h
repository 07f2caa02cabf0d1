#pragma once

#include <cuda_runtime.h>

#include "lockstep/engine/tensor/dtype.h"

namespace lockstep::cuda {

// Throws Error naming the call, CUDA's error and what to do, unless `status` is success. CUDA's
// own record of the error is cleared, where it can be.
void check_cuda(cudaError_t status, const char* call);

// The current device belongs to the thread, and somebody else may have changed it.
void make_current(int device);

[[noreturn]] void no_kernel(const char* op, DType dtype);

}  // namespace lockstep::cuda
