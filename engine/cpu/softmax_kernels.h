#pragma once

#include "lockstep/engine/cpu/isa.h"
#include "lockstep/engine/cpu/softmax.h"

namespace lockstep::cpu {

// One row on the calling thread. Outputs may be the inputs.
template <typename T>
struct SoftmaxKernelsOf {
  // Log-softmax.
  void (*forward)(int64_t cols, const T* x, T* y);
  void (*backward)(int64_t cols, const T* gy, const T* y, T* gx);
  void (*softmax)(int64_t cols, const T* x, T* y);
  void (*softmax_backward)(int64_t cols, const T* gy, const T* y, T* gx);
  // max, and log(sum(exp(x - max)))
  void (*log_sum)(int64_t cols, const T* x, T* max_and_log_sum);
  // y = factor * exp((x - max) - log_sum)
  void (*scaled_softmax)(int64_t cols, const T* x, const T* max_and_log_sum, T factor, T* y);
};
struct SoftmaxKernels {
  SoftmaxKernelsOf<float> f32;
  SoftmaxKernelsOf<double> f64;
};
LOCKSTEP_ISA_DECLARE(SoftmaxKernels, softmax_kernels)

}  // namespace lockstep::cpu
