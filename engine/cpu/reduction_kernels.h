#pragma once

#include <cstdint>

#include "lockstep/engine/cpu/isa.h"

namespace lockstep::cpu {

// Sums in an order that depends on the length only.
struct ReductionKernels {
  float (*sum_f32)(const float* x, int64_t n);
  double (*sum_f64)(const double* x, int64_t n);
  int64_t (*sum_i64)(const int64_t* x, int64_t n);
  // out[j] = sum over `rows` rows of x[i * stride + j], j in [0, columns).
  void (*columns_f32)(float* out, const float* x, int64_t rows, int64_t stride, int64_t columns);
  void (*columns_f64)(double* out, const double* x, int64_t rows, int64_t stride, int64_t columns);
  void (*columns_i64)(int64_t* out, const int64_t* x, int64_t rows, int64_t stride,
                      int64_t columns);
  double (*squares_f32)(const float* x, int64_t n);
  double (*squares_f64)(const double* x, int64_t n);
};
LOCKSTEP_ISA_DECLARE(ReductionKernels, reduction_kernels)

}  // namespace lockstep::cpu
