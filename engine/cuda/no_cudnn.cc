// In place of conv_cudnn.cc where the plugin is built without cuDNN.
#include "lockstep/engine/cuda/libraries.h"

namespace lockstep::cuda {

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

std::string convolution_fact() {
  return "not built with it (LOCKSTEP_CUDA_CUDNN): convolutions use slow kernels";
}

}  // namespace lockstep::cuda
