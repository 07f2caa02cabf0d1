#pragma once

#include "lockstep/engine/cpu/isa.h"
#include "lockstep/engine/cpu/softmax.h"

namespace lockstep::cpu {

// One row on the calling thread.
template <typename T>
struct SoftmaxKernelsOf {
  void (*forward)(int64_t cols, const T* x, T* y);
  void (*backward)(int64_t cols, const T* gy, const T* y, T* gx);
};
struct SoftmaxKernels {
  SoftmaxKernelsOf<float> f32;
  SoftmaxKernelsOf<double> f64;
};
LOCKSTEP_ISA_DECLARE(SoftmaxKernels, softmax_kernels)

}  // namespace lockstep::cpu
