// Plain kernels in place of cuBLASLt; those in place of cuDNN are engine/cuda/no_cudnn.cc's.
#include "lockstep/engine/cuda/libraries.h"

#include "lockstep/engine/cuda/gemm.h"

namespace lockstep::cuda {

void gemm_by_library(cudaStream_t stream, const GemmCall& call) { gemm_by_kernel(stream, call); }

Facts library_facts() { return {{"libraries", "none: this device is emulated"}}; }

}  // namespace lockstep::cuda
