#pragma once

#include "lockstep/engine/cpu/isa.h"
#include "lockstep/engine/cpu/norm.h"

namespace lockstep::cpu {

// On the calling thread, over a block of activations: `rows` rows of c channels (channels last), or
// `rows` images of c planes with `spatial` elements (channels second). Sums have c elements and are
// overwritten.
template <typename T>
struct NormKernelsOf {
  struct Block {
    int64_t rows;
    int64_t c;
    int64_t spatial;
    bool channels_last;
  };
  void (*sum)(const Block& block, const T* x, T* sum);
  void (*sum_of_squares)(const Block& block, const T* x, const T* mean, T* sum);
  // sum_gy = sum of gy, sum_gx = sum of gy * (x - mean)
  void (*gradient_sums)(const Block& block, const T* gy, const T* x, const T* mean, T* sum_gy,
                        T* sum_gx);
  // y = (x - mean) * scale + shift
  void (*normalize)(const Block& block, const T* x, const T* mean, const T* scale, const T* shift,
                    T* y);
  // gx = ((gy - a) - (x - mean) * b) * scale
  void (*input_gradient)(const Block& block, const T* gy, const T* x, const T* mean, const T* scale,
                         const T* a, const T* b, T* gx);
};
struct NormKernels {
  NormKernelsOf<float> f32;
  NormKernelsOf<double> f64;
};
LOCKSTEP_ISA_DECLARE(NormKernels, norm_kernels)

}  // namespace lockstep::cpu
