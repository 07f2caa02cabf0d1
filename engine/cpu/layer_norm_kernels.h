#pragma once

#include <cstdint>

#include "lockstep/engine/cpu/isa.h"

namespace lockstep::cpu {

// One row on the calling thread; a null mean stands for 0.
template <typename T>
struct LayerNormKernelsOf {
  // y = (x - mean) * rstd * weight + bias; mean and rstd are written. weight and bias may be null,
  // y may be x.
  void (*forward)(int64_t cols, const T* x, const T* weight, const T* bias, double eps, T* y,
                  T* mean, T* rstd);
  // gweight += gy * (x - mean) * rstd, gbias += gy; either may be null.
  void (*add_sums)(int64_t cols, const T* gy, const T* x, const T* mean, T rstd, T* gweight,
                   T* gbias);
  // weight may be null, gx may be gy.
  void (*input_gradient)(int64_t cols, const T* gy, const T* x, const T* mean, T rstd,
                         const T* weight, T* gx);
};
struct LayerNormKernels {
  LayerNormKernelsOf<float> f32;
  LayerNormKernelsOf<double> f64;
};
LOCKSTEP_ISA_DECLARE(LayerNormKernels, layer_norm_kernels)

}  // namespace lockstep::cpu
