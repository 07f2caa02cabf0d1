#pragma once

#include "lockstep/engine/cuda/kernel.cuh"

namespace lockstep::cuda {

// Two sums of each channel or column.
struct Sums {
  double a = 0, b = 0;
};

// Of the block's kThreads threads with the same number modulo `lanes`, a power of two, in the first
// `lanes` threads. All threads call it.
__device__ inline Sums sum_of_lanes(Sums own, int lanes) {
  __shared__ double a[kThreads], b[kThreads];
  const int t = static_cast<int>(threadIdx.x);
  a[t] = own.a;
  b[t] = own.b;
  __syncthreads();
  for (int half = kThreads / 2; half >= lanes; half /= 2) {
    if (t < half) {
      a[t] += a[t + half];
      b[t] += b[t + half];
    }
    __syncthreads();
  }
  own = {a[t], b[t]};
  __syncthreads();
  return own;
}

}  // namespace lockstep::cuda
