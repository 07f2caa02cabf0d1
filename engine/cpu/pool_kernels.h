#pragma once

#include "lockstep/engine/cpu/isa.h"
#include "lockstep/engine/cpu/pool.h"

namespace lockstep::cpu {

// One image in nhwc on the calling thread: shape.n and the layout are not looked at.
template <typename T>
struct PoolKernelsOf {
  void (*max_forward)(const Pool2dShape& shape, const T* x, T* y, int32_t* indices);
  void (*max_backward)(const Pool2dShape& shape, const T* gy, const int32_t* indices, T* gx);
  void (*avg_forward)(const Pool2dShape& shape, const T* x, T* y);
  void (*avg_backward)(const Pool2dShape& shape, const T* gy, T* gx);
};
struct PoolKernels {
  PoolKernelsOf<float> f32;
  PoolKernelsOf<double> f64;
};
LOCKSTEP_ISA_DECLARE(PoolKernels, pool_kernels)

}  // namespace lockstep::cpu
