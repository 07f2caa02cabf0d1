// Plain kernels in place of NVIDIA's libraries.
#include "lockstep/engine/cuda/libraries.h"

#include "lockstep/engine/cuda/gemm.h"

namespace lockstep::cuda {

void gemm_by_library(cudaStream_t stream, const GemmCall& call) { gemm_by_kernel(stream, call); }

bool conv2d_by_library(cudaStream_t, const Tensor&, const Tensor&, const Tensor&, const Tensor&,
                       const Conv2dParams&) {
  return false;
}
bool conv2d_input_gradient_by_library(cudaStream_t, const Tensor&, const Tensor&, const Tensor&,
                                      const Conv2dParams&) {
  return false;
}
bool conv2d_weight_gradient_by_library(cudaStream_t, const Tensor&, const Tensor&, const Tensor&,
                                       const Tensor&, const Conv2dParams&) {
  return false;
}

Facts library_facts() { return {{"libraries", "none: this device is emulated"}}; }

}  // namespace lockstep::cuda
